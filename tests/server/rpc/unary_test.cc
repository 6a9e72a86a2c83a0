// Calls with one reply, through real gRPC.
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "fluoroscope/v1/inference.grpc.pb.h"
#include "fluoroscope/v1/models.grpc.pb.h"
#include "fluoroscope/v1/server.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "stream_engine.h"

namespace fluoroscope::rpc {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class UnaryTest : public testing::Test {
 protected:
  UnaryTest()
      : channel_(grpc::CreateChannel(loopback_.address(), grpc::InsecureChannelCredentials())), models_(v1::Models::NewStub(channel_)) {}

  grpc::Status GetModel(const std::string& name) {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_model(name);
    v1::GetModelReply reply;
    return models_->GetModel(&context, request, &reply);
  }
  grpc::Status Tokenize(grpc::ClientContext& context, const std::string& model) {
    v1::TokenizeRequest request;
    request.set_model(model);
    request.add_prompts()->set_text("x");
    v1::TokenizeReply reply;
    return models_->Tokenize(&context, request, &reply);
  }
  // Any bytes to any method, as a broken or hostile client would.
  grpc::Status SendRaw(const std::string& method, const std::string& bytes) {
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer reply;
    grpc::ClientContext context;
    std::promise<grpc::Status> done;
    grpc::GenericStub(channel_).UnaryCall(&context, method, {}, &request, &reply,
                                          [&done](grpc::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }

  Loopback loopback_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Models::Stub> models_;
};

TEST_F(UnaryTest, EveryMethodAnswers) {
  {
    grpc::ClientContext context;
    v1::ListModelsReply reply;
    ASSERT_TRUE(models_->ListModels(&context, {}, &reply).ok());
    EXPECT_EQ(reply.models(0).layers(), 3u);
  }
  EXPECT_TRUE(GetModel("stream").ok());
  {
    grpc::ClientContext context;
    EXPECT_TRUE(Tokenize(context, "m").ok());
  }
  {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.set_model("m");
    request.add_rows()->add_ids(1);
    v1::DetokenizeReply reply;
    ASSERT_TRUE(models_->Detokenize(&context, request, &reply).ok());
    EXPECT_EQ(reply.texts(0), "text");
  }
  {
    grpc::ClientContext context;
    v1::ForwardRequest request;
    request.set_model("m");
    request.add_prompts()->set_text("x");
    v1::EstimateReply reply;
    ASSERT_TRUE(v1::Inference::NewStub(channel_)->Estimate(&context, request, &reply).ok());
    EXPECT_EQ(reply.tokens(), 1u);
  }
  {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_model("m");
    request.add_prompts()->set_text("x");
    request.set_max_new_tokens(7);
    v1::EstimateReply reply;
    ASSERT_TRUE(v1::Inference::NewStub(channel_)->EstimateGenerate(&context, request, &reply).ok());
    EXPECT_EQ(reply.tokens(), 7u);
  }
}

TEST_F(UnaryTest, ErrorsCarryCodeAndMessage) {
  const grpc::Status missing = GetModel("other");
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(missing.error_message(), "no model \"other\"; there is: stream");
  EXPECT_EQ(GetModel("").error_message(), "model is empty; Models.ListModels gives the names");
  const grpc::Status very_long = GetModel("long");
  EXPECT_EQ(very_long.error_code(), grpc::StatusCode::NOT_FOUND);  // not "received metadata too large"
  EXPECT_EQ(very_long.error_message().size(), 2052u);
}

TEST_F(UnaryTest, MalformedBytesAreInvalidAndTheServerGoesOn) {
  for (const char* method :
       {"/fluoroscope.v1.Models/GetModel", "/fluoroscope.v1.Inference/Estimate", "/fluoroscope.v1.Inference/EstimateGenerate",
        "/fluoroscope.v1.Inference/Forward", "/fluoroscope.v1.Patching/EstimateSweep", "/fluoroscope.v1.Patching/Sweep",
        "/fluoroscope.v1.Patching/PathPatch", "/fluoroscope.v1.Patching/EstimatePathPatch"}) {
    for (const std::string& bytes : {std::string("\xff\xff\xff\xff"),
                                     std::string("\x0a\x7f"
                                                 "short"),
                                     std::string("\x0a\x02\xc3\x28")}) {
      const grpc::Status status = SendRaw(method, bytes);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_THAT(status.error_message(), HasSubstr("the request is not a valid fluoroscope.v1."));
    }
    const grpc::Status unknown = SendRaw(method, std::string("\xf8\x07\x01", 3));  // field 127, varint
    EXPECT_EQ(unknown.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(unknown.error_message(), HasSubstr("the request has the unknown field number 127"));
  }
  EXPECT_TRUE(GetModel("stream").ok());
  EXPECT_THAT(loopback_.metrics.Serialize(), HasSubstr("fluoroscope_rejections_total{reason=\"invalid\"} "));
}

TEST_F(UnaryTest, AnOversizedMessageIsRefusedWithBothNumbers) {
  const grpc::Status status = SendRaw("/fluoroscope.v1.Models/GetModel", std::string(5 << 20, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("(5242880 vs. 4194304)"));
  EXPECT_TRUE(GetModel("stream").ok());
}

TEST_F(UnaryTest, ExceptionsBecomeInternal) {
  EXPECT_EQ(GetModel("throw").error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(GetModel("throw").error_message(), "unexpected failure: GetModel threw");
  grpc::ClientContext context;
  EXPECT_EQ(Tokenize(context, "throw").error_message(), "unexpected failure: Tokenize threw");
}

TEST_F(UnaryTest, TheFirstAnswerCounts) {
  grpc::ClientContext context;
  EXPECT_TRUE(Tokenize(context, "twice").ok());
}

TEST_F(UnaryTest, DeadlineAndCancelReachTheEngine) {
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + milliseconds(50));
  EXPECT_EQ(Tokenize(late, "hang").error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  grpc::ClientContext cancelled;
  std::thread canceller([&cancelled] {
    std::this_thread::sleep_for(milliseconds(50));
    cancelled.TryCancel();
  });
  EXPECT_EQ(Tokenize(cancelled, "hang").error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  for (int i = 0; i < 2000 && loopback_.engine.cancelled < 2; ++i) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(loopback_.engine.cancelled, 2);
}

TEST_F(UnaryTest, ThePrincipalIsTheMetadataOrThePeer) {
  grpc::ClientContext plain;
  ASSERT_TRUE(Tokenize(plain, "m").ok());
  EXPECT_EQ(loopback_.engine.last_principal(), "127.0.0.1");
  grpc::ClientContext named;
  named.AddMetadata("x-fluoroscope-principal", "alice-1.2_3");
  ASSERT_TRUE(Tokenize(named, "m").ok());
  EXPECT_EQ(loopback_.engine.last_principal(), "alice-1.2_3");
  for (const std::string& bad : {std::string("a b"), std::string(129, 'a'), std::string("")}) {
    grpc::ClientContext context;
    context.AddMetadata("x-fluoroscope-principal", bad);
    const grpc::Status status = Tokenize(context, "m");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bad;
    EXPECT_THAT(status.error_message(), HasSubstr("x-fluoroscope-principal must be 1 to 128 characters"));
  }
}

TEST_F(UnaryTest, TheStatusSaysWhatRunsAndWaits) {
  const auto channel = grpc::CreateChannel(loopback_.address(), grpc::InsecureChannelCredentials());
  const auto stub = fluoroscope::v1::Server::NewStub(channel);
  grpc::ClientContext context;
  fluoroscope::v1::ServerStatus status;
  ASSERT_TRUE(stub->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.admitted_bytes(), 5u);
  EXPECT_EQ(status.budget_bytes(), 9u);
  ASSERT_EQ(status.works_size(), 2);
  EXPECT_EQ(status.works(0).principal(), "0123abcd");
  EXPECT_EQ(status.works(0).state(), fluoroscope::v1::WorkStatus::STATE_RUNNING);
  EXPECT_EQ(status.works(0).priority(), fluoroscope::v1::WorkStatus::PRIORITY_BATCH);
  EXPECT_EQ(status.works(0).age_seconds(), 1.5);
  EXPECT_EQ(status.works(0).peak_bytes(), 5u);
  EXPECT_EQ(status.works(0).flops(), 2e9);
  EXPECT_EQ(status.works(1).state(), fluoroscope::v1::WorkStatus::STATE_WAITING);
  EXPECT_EQ(status.works(1).priority(), fluoroscope::v1::WorkStatus::PRIORITY_INTERACTIVE);
}

TEST_F(UnaryTest, ThePriorityIsTheMetadatasOrInteractive) {
  grpc::ClientContext plain;
  ASSERT_TRUE(Tokenize(plain, "m").ok());
  EXPECT_EQ(loopback_.engine.last_priority(), api::Priority::kInteractive);
  grpc::ClientContext batch;
  batch.AddMetadata("x-fluoroscope-priority", "batch");
  ASSERT_TRUE(Tokenize(batch, "m").ok());
  EXPECT_EQ(loopback_.engine.last_priority(), api::Priority::kBatch);
  grpc::ClientContext interactive;
  interactive.AddMetadata("x-fluoroscope-priority", "interactive");
  ASSERT_TRUE(Tokenize(interactive, "m").ok());
  EXPECT_EQ(loopback_.engine.last_priority(), api::Priority::kInteractive);
  for (const std::string bad : {"BATCH", "", "urgent"}) {
    grpc::ClientContext context;
    context.AddMetadata("x-fluoroscope-priority", bad);
    const grpc::Status status = Tokenize(context, "m");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bad;
    EXPECT_THAT(status.error_message(), HasSubstr("x-fluoroscope-priority must be interactive or batch"));
  }
}

}  // namespace
}  // namespace fluoroscope::rpc
