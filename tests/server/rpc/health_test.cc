#include "rpc/health.h"

#include <grpcpp/create_channel.h>

#include <chrono>
#include <string>

#include "fluoroscope/v1/models.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "stream_engine.h"

namespace fluoroscope::rpc {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class HealthTest : public testing::Test {
 protected:
  HealthTest()
      : loopback_({}, /*serve=*/false),
        channel_(grpc::CreateChannel(loopback_.address(), grpc::InsecureChannelCredentials())),
        stub_(Health::NewStub(channel_)) {}

  int Check(const std::string& service) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status = stub_->Check(&context, request, &response);
    return status.ok() ? static_cast<int>(response.status()) : -static_cast<int>(status.error_code());
  }

  Loopback loopback_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Health::Stub> stub_;
};

TEST_F(HealthTest, CheckFollowsTheServersLife) {
  for (const char* service : {"", "fluoroscope.v1.Models", "fluoroscope.v1.Inference", "fluoroscope.v1.Patching"})
    EXPECT_EQ(Check(service), HealthCheckResponse::NOT_SERVING);
  loopback_.server->Serve(loopback_.engine);
  for (const char* service : {"", "fluoroscope.v1.Models", "fluoroscope.v1.Inference", "fluoroscope.v1.Patching"})
    EXPECT_EQ(Check(service), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check("nonsense"), -static_cast<int>(grpc::StatusCode::NOT_FOUND));
  loopback_.server->StopServing();
  EXPECT_EQ(Check("fluoroscope.v1.Models"), HealthCheckResponse::NOT_SERVING);
}

TEST_F(HealthTest, AModelServesWhileItIsLoaded) {
  EXPECT_EQ(Check("other"), -static_cast<int>(grpc::StatusCode::NOT_FOUND));  // nobody knows yet
  loopback_.server->Serve(loopback_.engine);
  EXPECT_EQ(Check("stream"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check("other"), HealthCheckResponse::NOT_SERVING);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  HealthCheckRequest request;
  request.set_service("other");
  auto watch = stub_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  const auto models = fluoroscope::v1::Models::NewStub(channel_);
  {
    grpc::ClientContext call;
    fluoroscope::v1::LoadModelRequest load;
    load.set_model("other");
    load.set_dtype("bf16");
    fluoroscope::v1::LoadModelReply reply;
    ASSERT_TRUE(models->LoadModel(&call, load, &reply).ok());
    EXPECT_EQ(reply.info().name(), "otherbf16");
    EXPECT_FALSE(reply.was_loaded());
  }
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  {
    grpc::ClientContext call;
    fluoroscope::v1::UnloadModelRequest unload;
    unload.set_model("other");
    fluoroscope::v1::UnloadModelReply reply;
    ASSERT_TRUE(models->UnloadModel(&call, unload, &reply).ok());
    EXPECT_TRUE(reply.still_in_use());
  }
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  loopback_.server->StopServing();
  EXPECT_EQ(Check("stream"), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  watch->Finish();
}

TEST_F(HealthTest, CallsBeforeServeAreUnavailable) {
  grpc::ClientContext context;
  fluoroscope::v1::ListModelsReply reply;
  const grpc::Status status = fluoroscope::v1::Models::NewStub(channel_)->ListModels(&context, {}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("still loading"));
}

TEST_F(HealthTest, WatchTellsEveryChangeAndEndsWithTheServer) {
  grpc::ClientContext context, unknown_context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  HealthCheckRequest request;
  request.set_service("fluoroscope.v1.Inference");
  auto watch = stub_->Watch(&context, request);
  request.set_service("nonsense");
  auto unknown = stub_->Watch(&unknown_context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(unknown->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  loopback_.server->Serve(loopback_.engine);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  unknown_context.TryCancel();
  unknown->Finish();
  const auto start = std::chrono::steady_clock::now();
  loopback_.server->Shutdown(std::chrono::seconds(10));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));  // a watch does not hold the server up
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace fluoroscope::rpc
