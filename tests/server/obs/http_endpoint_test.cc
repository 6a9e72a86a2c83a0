#include "obs/http_endpoint.h"

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::obs {
namespace {

class HttpEndpointTest : public testing::Test {
 protected:
  void SetUp() override {
    auto endpoint = HttpEndpoint::Start(
        {.host = "127.0.0.1", .port = 0, .healthy = [this] { return healthy_.load(); }, .ready = [this] { return ready_.load(); }},
        metrics_);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = std::move(*endpoint);
  }
  httplib::Result Get(const char* path) { return httplib::Client("127.0.0.1", endpoint_->port()).Get(path); }

  Metrics metrics_;
  std::atomic<bool> healthy_{true}, ready_{false};
  std::unique_ptr<HttpEndpoint> endpoint_;
};

TEST_F(HttpEndpointTest, HealthAndReadinessFollowTheirFunctions) {
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_EQ(Get("/readyz")->status, 503);
  ready_ = true;
  EXPECT_EQ(Get("/readyz")->status, 200);
  healthy_ = false;
  EXPECT_EQ(Get("/healthz")->status, 503);
  EXPECT_EQ(Get("/nothing")->status, 404);
}

TEST_F(HttpEndpointTest, ServesTheMetrics) {
  const auto reply = Get("/metrics");
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(reply->body, testing::HasSubstr("fluoroscope_build_info{"));
}

TEST_F(HttpEndpointTest, ATakenPortIsAnError) {
  const auto second = HttpEndpoint::Start(
      {.host = "127.0.0.1", .port = endpoint_->port(), .healthy = [] { return true; }, .ready = [] { return true; }}, metrics_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(HttpEndpointTest, SilentConnectionsDoNotShutOthersOutForLong) {
  std::vector<std::unique_ptr<httplib::Client>> silent;
  std::vector<int> sockets;
  for (int i = 0; i < 8; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(endpoint_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    sockets.push_back(fd);
  }
  httplib::Client client("127.0.0.1", endpoint_->port());
  client.set_read_timeout(std::chrono::seconds(20));
  const auto reply = client.Get("/healthz");
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, 200);
  for (int fd : sockets) close(fd);
}

}  // namespace
}  // namespace fluoroscope::obs
