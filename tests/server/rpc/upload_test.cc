// Calls with a stream of requests, through real gRPC.
#include <grpcpp/create_channel.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fluoroscope/v1/handles.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "stream_engine.h"

namespace fluoroscope::rpc {
namespace {

using testing::HasSubstr;

class UploadTest : public testing::Test {
 protected:
  struct Call {
    grpc::ClientContext context;
    v1::PutReply reply;
    std::unique_ptr<grpc::ClientWriter<v1::PutRequest>> writer;

    bool Header(int64_t size, const std::string& model = "m") {
      v1::PutRequest request;
      request.mutable_header()->set_model(model);
      request.mutable_header()->set_site("hook_embed");
      request.mutable_header()->set_dtype(v1::DTYPE_F32);
      request.mutable_header()->add_shape(size);
      request.mutable_header()->set_ttl_seconds(1);
      return writer->Write(request);
    }
    bool Chunk(uint64_t offset, size_t bytes) {
      v1::PutRequest request;
      request.mutable_chunk()->set_offset(offset);
      request.mutable_chunk()->set_data(std::string(bytes, 'x'));
      return writer->Write(request);
    }
    grpc::Status Finish() {
      writer->WritesDone();
      return writer->Finish();
    }
  };

  std::unique_ptr<Call> Put() {
    auto call = std::make_unique<Call>();
    call->writer = handles_->Put(&call->context, &call->reply);
    return call;
  }

  // An upload's memory is given back a moment after the client has its answer.
  bool NoneLeft() {
    for (int i = 0; i < 3000 && loopback_.engine.fake_handles().uploads > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return loopback_.engine.fake_handles().uploads == 0;
  }

  Loopback loopback_;
  std::unique_ptr<v1::Handles::Stub> handles_ =
      v1::Handles::NewStub(grpc::CreateChannel(loopback_.address(), grpc::InsecureChannelCredentials()));
};

TEST_F(UploadTest, HeaderChunksReply) {
  auto call = Put();
  call->Header(3);
  call->Chunk(0, 8);
  call->Chunk(8, 4);
  const grpc::Status status = call->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(call->reply.handle().byte_size(), 12u);
  EXPECT_EQ(loopback_.engine.fake_handles().finished, 1);
  EXPECT_TRUE(NoneLeft());
}

TEST_F(UploadTest, WrongOrders) {
  const auto expect = [](grpc::Status status, const char* text) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  };
  expect(Put()->Finish(), "has no message");
  auto no_header = Put();
  no_header->Chunk(0, 4);
  expect(no_header->Finish(), "must be its header");
  auto two_headers = Put();
  two_headers->Header(1);
  two_headers->Header(1);
  expect(two_headers->Finish(), "a second one came");
  auto empty = Put();
  empty->writer->Write(v1::PutRequest());
  expect(empty->Finish(), "part is empty");
  auto truncated = Put();
  truncated->Header(2);
  truncated->Chunk(0, 4);
  expect(truncated->Finish(), "bytes are missing");
  auto no_axes = Put();
  no_axes->Header(0);
  expect(no_axes->Finish(), "header.shape");
  EXPECT_EQ(loopback_.engine.fake_handles().finished, 0);
  EXPECT_TRUE(NoneLeft());
}

// The first error ends the call, however much the client would still send.
TEST_F(UploadTest, AnErrorEndsTheCallAtOnce) {
  auto call = Put();
  call->Header(1);
  uint64_t sent = 0;
  while (call->Chunk(sent, 1 << 20) && sent < (1u << 30)) sent += 1 << 20;
  EXPECT_LT(sent, 1u << 30);
  const grpc::Status status = call->writer->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("not what was announced"));
  EXPECT_TRUE(NoneLeft());
}

TEST_F(UploadTest, WhatIsThrownIsAnAnswer) {
  auto call = Put();
  call->Header(1, "throw");
  const grpc::Status status = call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("it threw"));
}

TEST_F(UploadTest, WhatIsThrownAtTheEndIsAnAnswer) {
  auto call = Put();
  call->Header(1, "throw_at_end");
  call->Chunk(0, 4);
  const grpc::Status status = call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("it threw at the end"));
  EXPECT_TRUE(NoneLeft());
}

// From its end on an upload is a success for the server, too: nothing is kept of one that it counts as an error.
TEST_F(UploadTest, NobodyEndsTheCallBehindTheEndOfTheUpload) {
  auto call = Put();
  call->Header(1, "cancelled");
  call->Chunk(0, 4);
  call->writer->WritesDone();
  while (loopback_.engine.fake_handles().finishing == 0) std::this_thread::yield();
  call->context.TryCancel();
  EXPECT_EQ(call->writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(NoneLeft());
  EXPECT_EQ(loopback_.engine.fake_handles().finished, 1);
  const std::string text = loopback_.metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("fluoroscope_rpcs_total{code=\"OK\",method=\"Handles.Put\"} 1"));
}

// What an upload holds belongs to an engine that may be gone once the server has shut down.
TEST_F(UploadTest, NoneIsLeftWhenTheServerHasShutDown) {
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(Put());
    calls.back()->Header(1);
  }
  while (loopback_.engine.fake_handles().uploads < 8) std::this_thread::yield();
  loopback_.server->Shutdown(std::chrono::milliseconds(0));
  EXPECT_EQ(loopback_.engine.fake_handles().uploads, 0);
  for (const auto& call : calls) EXPECT_FALSE(call->writer->Finish().ok());
}

TEST_F(UploadTest, ACancelledUploadIsDropped) {
  auto call = Put();
  call->Header(2);
  call->Chunk(0, 4);
  while (loopback_.engine.fake_handles().uploads == 0) std::this_thread::yield();
  call->context.TryCancel();
  EXPECT_EQ(call->writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(NoneLeft());
  EXPECT_EQ(loopback_.engine.fake_handles().finished, 0);
}

TEST_F(UploadTest, TheDeadlineEndsAnIdleUpload) {
  auto call = std::make_unique<Call>();
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  call->writer = handles_->Put(&call->context, &call->reply);
  call->Header(2);
  EXPECT_EQ(call->writer->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(NoneLeft());
}

// The client neither goes away nor sends anything, and has no deadline.
TEST(IdleUploadTest, EndsAndGivesItsMemoryBack) {
  config::Limits limits;
  limits.upload_idle_seconds = 1;
  Loopback loopback(limits);
  const auto handles = v1::Handles::NewStub(grpc::CreateChannel(loopback.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::PutReply reply;
  const auto writer = handles->Put(&context, &reply);
  v1::PutRequest request;
  request.mutable_header()->set_model("m");
  request.mutable_header()->set_site("hook_embed");
  request.mutable_header()->set_dtype(v1::DTYPE_F32);
  request.mutable_header()->add_shape(2);
  request.mutable_header()->set_ttl_seconds(1);
  ASSERT_TRUE(writer->Write(request));
  while (loopback.engine.fake_handles().uploads == 0) std::this_thread::yield();
  const grpc::Status status = writer->Finish();  // waits for the server
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(status.error_message(),
            "no message of the upload came for 1 s, the most that limits.upload_idle_seconds allows; what came before is dropped");
  for (int i = 0; i < 3000 && loopback.engine.fake_handles().uploads > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(loopback.engine.fake_handles().uploads, 0);
  EXPECT_EQ(loopback.engine.fake_handles().finished, 0);
}

TEST(UploadWhileLoadingTest, IsUnavailable) {
  Loopback loopback({}, /*serve=*/false);
  const auto handles = v1::Handles::NewStub(grpc::CreateChannel(loopback.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::PutReply reply;
  const auto writer = handles->Put(&context, &reply);
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace fluoroscope::rpc
