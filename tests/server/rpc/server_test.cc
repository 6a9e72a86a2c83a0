#include "rpc/server.h"

#include <arpa/inet.h>
#include <grpcpp/create_channel.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "fluoroscope/v1/models.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "stream_engine.h"

namespace fluoroscope::rpc {
namespace {

TEST(ServerTest, ATakenPortIsAnError) {
  Loopback loopback;
  config::ServerConfig config;
  config.grpc_address = loopback.address();
  obs::Metrics metrics;
  const auto second = Server::Start(config, metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(loopback.address()));
}

TEST(ServerTest, GarbageOnThePortDisturbsNobody) {
  Loopback loopback;
  for (const std::string& garbage : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(10000, '\xff'), std::string(1, '\0'),
                                     std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") + std::string(5000, '\x80')}) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(loopback.server->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL), static_cast<ssize_t>(garbage.size()));
    close(fd);
  }
  auto stub = v1::Models::NewStub(grpc::CreateChannel(loopback.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ListModelsReply reply;
  EXPECT_TRUE(stub->ListModels(&context, {}, &reply).ok());
}

TEST(ServerTest, ShutdownTwiceIsFine) {
  Loopback loopback;
  loopback.server->Shutdown(std::chrono::milliseconds(0));
  loopback.server->Shutdown(std::chrono::milliseconds(0));
}

}  // namespace
}  // namespace fluoroscope::rpc
