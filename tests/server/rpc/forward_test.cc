// Forward's stream through real gRPC.
#include <grpcpp/create_channel.h>

#include <chrono>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fluoroscope/v1/inference.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/checksum.h"
#include "stream_engine.h"

namespace fluoroscope::rpc {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr size_t kMiB = 1024 * 1024;

std::unique_ptr<v1::Inference::Stub> Connect(const Loopback& loopback) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Inference::NewStub(grpc::CreateCustomChannel(loopback.address(), grpc::InsecureChannelCredentials(), arguments));
}

v1::ForwardRequest Request(const std::string& model) {
  v1::ForwardRequest request;
  request.set_model(model);
  request.add_prompts()->set_text("x");
  return request;
}

struct Received {
  int headers = 0, tensors = 0;
  uint64_t bytes = 0;
  size_t largest_message = 0;
  v1::ForwardSummary summary;
  grpc::Status status;
};

// Reads a whole stream and checks order, offsets and every byte.
Received ReadAll(v1::Inference::Stub& stub, const std::string& model, bool check_bytes = true) {
  Received out;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + seconds(120));
  auto reader = stub.Forward(&context, Request(model));
  Checksum checksum;
  v1::ForwardReply reply;
  uint64_t left = 0, offset = 0;
  uint32_t id = 0;
  while (reader->Read(&reply)) {
    out.largest_message = std::max(out.largest_message, reply.ByteSizeLong());
    switch (reply.part_case()) {
      case v1::ForwardReply::kHeader:
        EXPECT_EQ(out.headers++ + out.tensors, 0);
        break;
      case v1::ForwardReply::kTensor:
        EXPECT_EQ(left, 0u);
        EXPECT_EQ(reply.tensor().name(), "t" + std::to_string(out.tensors));
        EXPECT_EQ(reply.tensor().id(), static_cast<uint32_t>(out.tensors));
        ++out.tensors;
        id = reply.tensor().id();
        left = reply.tensor().byte_size();
        offset = 0;
        break;
      case v1::ForwardReply::kChunk: {
        const std::string& data = reply.chunk().data();
        EXPECT_EQ(reply.chunk().tensor_id(), id);
        EXPECT_EQ(reply.chunk().offset(), offset);
        EXPECT_LE(data.size(), left);
        if (check_bytes) {
          bool same = true;
          for (size_t i = 0; i < data.size(); ++i) same &= static_cast<std::byte>(data[i]) == PatternAt(offset + i);
          EXPECT_TRUE(same);
          checksum.Add(std::as_bytes(std::span(data)));
        }
        offset += data.size();
        left -= data.size();
        out.bytes += data.size();
        break;
      }
      case v1::ForwardReply::kPack: {
        EXPECT_EQ(left, 0u);
        const std::string& data = reply.pack().data();
        size_t at = 0;
        for (const v1::TensorHeader& header : reply.pack().headers()) {
          EXPECT_EQ(header.name(), "t" + std::to_string(out.tensors));
          EXPECT_EQ(header.id(), static_cast<uint32_t>(out.tensors));
          ++out.tensors;
          bool same = at + header.byte_size() <= data.size();
          for (size_t i = 0; same && check_bytes && i < header.byte_size(); ++i)
            same = static_cast<std::byte>(data[at + i]) == PatternAt(i);
          EXPECT_TRUE(same);
          at += header.byte_size();
        }
        EXPECT_EQ(at, data.size());
        checksum.Add(std::as_bytes(std::span(data)));
        out.bytes += data.size();
        break;
      }
      case v1::ForwardReply::kSummary:
        EXPECT_EQ(left, 0u);
        out.summary = reply.summary();
        break;
      case v1::ForwardReply::kHandle:
      case v1::ForwardReply::PART_NOT_SET:
        ADD_FAILURE() << "an empty reply, or one that nobody asked for";
    }
  }
  out.status = reader->Finish();
  if (check_bytes && out.status.ok()) {
    EXPECT_EQ(out.summary.checksum(), checksum.Value());
  }
  return out;
}

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

TEST(ForwardTest, EveryByteArrivesInOrder) {
  Loopback loopback;
  auto stub = Connect(loopback);
  for (const auto& [count, bytes] :
       std::vector<std::pair<int, size_t>>{{0, 0}, {1, 0}, {1, 1}, {3, 2 * kMiB - 64}, {2, 2 * kMiB - 63}, {5, 7 * kMiB + 3}, {300, 10}}) {
    const Received got = ReadAll(*stub, "stream:" + std::to_string(count) + ":" + std::to_string(bytes));
    ASSERT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_EQ(got.headers, 1);
    EXPECT_EQ(got.tensors, count);
    EXPECT_EQ(got.bytes, count * bytes);
    EXPECT_EQ(got.summary.tensor_count(), static_cast<uint32_t>(count));
    EXPECT_EQ(got.summary.byte_count(), count * bytes);
    EXPECT_EQ(got.summary.queue_ms(), 1.5);
    EXPECT_LE(got.largest_message, 2 * kMiB);
  }
  EXPECT_TRUE(Eventually([&] { return loopback.engine.live_bytes == 0; }));
  EXPECT_TRUE(Eventually([&] {
    return loopback.metrics.Serialize().find("fluoroscope_rpcs_total{code=\"OK\",method=\"Inference.Forward\"} 7\n") != std::string::npos;
  }));
}

TEST(ForwardTest, AGibibyteWithABoundedBuffer) {
  config::Limits limits;
  limits.sink_buffer_mib = 16;
  Loopback loopback(limits);
  auto stub = Connect(loopback);
  const Received got = ReadAll(*stub, "stream:128:" + std::to_string(8 * kMiB), /*check_bytes=*/false);
  ASSERT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_EQ(got.bytes, 1024 * kMiB);
  EXPECT_LE(loopback.engine.peak_bytes, static_cast<int64_t>(48 * kMiB));

  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(ReadAll(*stub, "repeat:128:" + std::to_string(8 * kMiB), /*check_bytes=*/false).bytes, 1024 * kMiB);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("gib_per_second", std::to_string(1.0 / seconds));
  std::printf("1 GiB in %.2f s\n", seconds);
}

TEST(ForwardTest, AReaderThatStopsPausesOnlyItsOwnRun) {
  config::Limits limits;
  limits.sink_buffer_mib = 4;
  Loopback loopback(limits);
  auto slow = Connect(loopback), other = Connect(loopback);
  grpc::ClientContext context;
  auto reader = slow->Forward(&context, Request("stream:64:" + std::to_string(2 * kMiB)));
  v1::ForwardReply reply;
  ASSERT_TRUE(reader->Read(&reply));
  EXPECT_TRUE(Eventually([&] { return loopback.engine.parked == 1; }));
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_EQ(loopback.engine.ended, 0);
  EXPECT_LE(loopback.engine.peak_bytes, static_cast<int64_t>(24 * kMiB));  // the sink's 4, gRPC's and the sockets' buffers

  EXPECT_TRUE(ReadAll(*other, "stream:4:1000000").status.ok());

  uint64_t bytes = 0;  // the slow one wakes up
  while (reader->Read(&reply)) bytes += reply.chunk().data().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, 128 * kMiB);
}

TEST(ForwardTest, ACancelledCallFreesEverythingAtOnce) {
  config::Limits limits;
  limits.sink_buffer_mib = 4;
  Loopback loopback(limits);
  auto stub = Connect(loopback);
  grpc::ClientContext context;
  auto reader = stub->Forward(&context, Request("stream:1000:" + std::to_string(2 * kMiB)));
  v1::ForwardReply reply;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&reply));
  EXPECT_TRUE(Eventually([&] { return loopback.engine.parked > 0; }));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return loopback.engine.ended == 1; }));  // a parked run is woken to see it
  EXPECT_EQ(loopback.engine.cancelled, 1);
  EXPECT_GE(loopback.engine.pokes, 1);
  EXPECT_TRUE(Eventually([&] { return loopback.engine.live_bytes == 0; }));
  EXPECT_TRUE(Eventually([&] {
    return loopback.metrics.Serialize().find("fluoroscope_rpcs_total{code=\"CANCELLED\",method=\"Inference.Forward\"} 1\n") !=
           std::string::npos;
  }));
}

TEST(ForwardTest, ADeadlineIsACancelWithAnotherName) {
  Loopback loopback;
  auto stub = Connect(loopback);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(100));
  auto reader = stub->Forward(&context, Request("hang"));
  v1::ForwardReply reply;
  while (reader->Read(&reply)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([&] { return loopback.engine.cancelled == 1; }));
  EXPECT_TRUE(Eventually([&] {
    return loopback.metrics.Serialize().find("fluoroscope_rpcs_total{code=\"DEADLINE_EXCEEDED\",method=\"Inference.Forward\"} 1\n") !=
           std::string::npos;
  }));
}

TEST(ForwardTest, AClientHangsUpALittleBeforeOurCopyOfItsDeadline) {
  Loopback loopback;
  auto stub = Connect(loopback);
  const auto cancel_before = [&](milliseconds deadline) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    auto reader = stub->Forward(&context, Request("hang"));
    v1::ForwardReply reply;
    EXPECT_TRUE(reader->Read(&reply));
    context.TryCancel();
    while (reader->Read(&reply)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  };
  const auto counted = [&](const char* code) {
    return loopback.metrics.Serialize().find(
               absl::StrCat("fluoroscope_rpcs_total{code=\"", code, "\",method=\"Inference.Forward\"} 1\n")) != std::string::npos;
  };
  cancel_before(milliseconds(90));  // as a deadline of 0 ms would arrive whose request travelled for 90
  EXPECT_TRUE(Eventually([&] { return counted("DEADLINE_EXCEEDED"); }));
  EXPECT_FALSE(counted("CANCELLED"));
  cancel_before(milliseconds(60'000));
  EXPECT_TRUE(Eventually([&] { return counted("CANCELLED"); }));
}

TEST(ForwardTest, FailuresAndExceptionsReachTheClient) {
  Loopback loopback;
  auto stub = Connect(loopback);
  for (const auto& [model, message] :
       std::vector<std::pair<std::string, std::string>>{{"throw", "unexpected failure: Forward threw"},
                                                        {"late_throw", "unexpected failure: Forward threw late"},
                                                        {"fail", "it broke"}}) {
    const Received got = ReadAll(*stub, model, false);
    EXPECT_EQ(got.status.error_code(), grpc::StatusCode::INTERNAL) << model;
    EXPECT_EQ(got.status.error_message(), message);
    EXPECT_TRUE(ReadAll(*stub, "stream:1:100").status.ok()) << "after " << model;
  }
  EXPECT_EQ(ReadAll(*stub, "nobody").status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST(ForwardTest, ManyStreamsAtOnce) {
  Loopback loopback;
  auto stub = Connect(loopback);
  std::vector<std::future<Received>> calls;
  for (int i = 0; i < 32; ++i) {
    calls.push_back(std::async(std::launch::async, [&stub] { return ReadAll(*stub, "stream:20:70001"); }));
  }
  for (auto& call : calls) {
    const Received got = call.get();
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_EQ(got.bytes, 20u * 70001);
  }
}

TEST(ForwardTest, AClientThatVanishesMidStream) {
  Loopback loopback;
  {
    auto stub = Connect(loopback);
    grpc::ClientContext context;
    auto reader = stub->Forward(&context, Request("hang"));
    v1::ForwardReply reply;
    ASSERT_TRUE(reader->Read(&reply));
    context.TryCancel();
    reader->Finish();
  }  // the connection is closed
  EXPECT_TRUE(Eventually([&] { return loopback.engine.ended == 1; }));
}

TEST(ForwardTest, ShutdownCancelsWhatDoesNotEnd) {
  Loopback loopback;
  auto stub = Connect(loopback);
  grpc::ClientContext context;
  auto reader = stub->Forward(&context, Request("hang"));
  v1::ForwardReply reply;
  ASSERT_TRUE(reader->Read(&reply));
  const auto start = std::chrono::steady_clock::now();
  loopback.server->Shutdown(milliseconds(100));
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(5));
  EXPECT_FALSE(reader->Read(&reply));
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(Eventually([&] { return loopback.engine.ended == 1; }));
}

}  // namespace
}  // namespace fluoroscope::rpc
