// The stream's messages, without gRPC.
#include "rpc/forward_stream.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fluoroscope/v1/inference.pb.h"
#include "gtest/gtest.h"
#include "obs/metrics.h"
#include "rpc/call.h"
#include "rpc/checksum.h"

namespace fluoroscope::rpc {
namespace {

constexpr size_t kMiB = 1024 * 1024;

// A ForwardStream on its own, so that what is queued when is certain.
struct Drained {
  std::vector<v1::ForwardReply> replies;
  v1::ForwardSummary summary;
};

Drained Drain(ForwardStream& stream) {
  config::Limits limits;
  obs::Metrics metrics;
  ServerState state(limits, metrics);
  grpc::CallbackServerContext context;
  Call call(state, context, "Inference.Forward");
  Drained out;
  for (;;) {
    MessageSource::Next next = stream.Take(call);
    if (!next.message) {
      EXPECT_TRUE(next.end && next.end->ok());
      return out;
    }
    EXPECT_LE(next.message->Length(), 2 * kMiB);
    v1::ForwardReply reply;
    EXPECT_TRUE(ParseMessage(*next.message, &reply).ok());
    if (reply.has_summary()) {
      out.summary = reply.summary();
    } else {
      out.replies.push_back(std::move(reply));
    }
    stream.Sent();
  }
}

api::NamedTensor TensorOf(const std::string& name, const std::string& data, size_t positions = 1) {
  auto owner = std::make_shared<const std::string>(data);
  api::NamedTensor tensor;
  tensor.name = name;
  tensor.positions.assign(positions, -1);  // the longest to encode
  tensor.token_ids.assign(positions, -1);
  tensor.data = {.dtype = api::DType::kBool,
                 .shape = {static_cast<int64_t>(data.size())},
                 .bytes = std::as_bytes(std::span(owner->data(), owner->size())),
                 .owner = owner};
  return tensor;
}

TEST(ForwardStreamTest, ManySmallTensorsAreFewMessages) {
  ForwardStream stream(uint64_t{1} << 40, [] {});
  std::string all;
  for (int i = 0; i < 720; ++i) {
    const std::string data(295 * 1000, static_cast<char>(i));
    all += data;
    EXPECT_TRUE(stream.Push(TensorOf(std::to_string(i), data, 128)));
  }
  stream.Push(api::ForwardSummary{});
  stream.Finish(absl::OkStatus());
  const Drained got = Drain(stream);
  EXPECT_EQ(got.replies.size(), 720u / 7 + 1);  // 7 fit in 2 MiB
  uint32_t id = 0;
  std::string bytes;
  for (const v1::ForwardReply& reply : got.replies) {
    for (const v1::TensorHeader& header : reply.pack().headers()) {
      EXPECT_EQ(header.name(), std::to_string(id));
      EXPECT_EQ(header.id(), id++);
      EXPECT_EQ(header.positions_size(), 128);
    }
    bytes += reply.pack().data();
  }
  EXPECT_TRUE(bytes == all);
  EXPECT_EQ(got.summary.tensor_count(), 720u);
  EXPECT_EQ(got.summary.byte_count(), all.size());
  Checksum checksum;
  checksum.Add(std::as_bytes(std::span(all)));
  EXPECT_EQ(got.summary.checksum(), checksum.Value());
}

TEST(ForwardStreamTest, SmallAndLargeTensorsKeepTheirOrder) {
  ForwardStream stream(uint64_t{1} << 40, [] {});
  // The third is large, the sixth has too long a header to be packed, the last are empty.
  const std::vector<std::pair<size_t, size_t>> sizes = {{10, 1},    {kMiB - 400, 1}, {3 * kMiB, 1}, {0, 0},        {77, 3},
                                                        {5, 60000}, {kMiB, 1},       {kMiB / 2, 1}, {kMiB / 2, 1}, {0, 0}};
  std::string all;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::string data(sizes[i].first, static_cast<char>('a' + i));
    all += data;
    stream.Push(TensorOf(std::to_string(i), data, sizes[i].second));
  }
  for (int i = 0; i < 300; ++i) stream.Push(TensorOf(std::to_string(sizes.size() + i), ""));
  stream.Push(api::ForwardSummary{});
  stream.Finish(absl::OkStatus());
  const Drained got = Drain(stream);
  std::string kinds, bytes;
  uint32_t id = 0;
  for (const v1::ForwardReply& reply : got.replies) {
    if (reply.has_tensor()) {
      kinds += "T";
      EXPECT_EQ(reply.tensor().id(), id);
      EXPECT_EQ(reply.tensor().name(), std::to_string(id++));
    } else if (reply.has_chunk()) {
      kinds += "c";
      EXPECT_EQ(reply.chunk().tensor_id() + 1, id);
      bytes += reply.chunk().data();
    } else {
      kinds += "p" + std::to_string(reply.pack().headers_size()) + " ";
      for (const v1::TensorHeader& header : reply.pack().headers()) {
        EXPECT_EQ(header.id(), id);
        EXPECT_EQ(header.name(), std::to_string(id++));
      }
      bytes += reply.pack().data();
    }
  }
  EXPECT_EQ(kinds, "p2 Tccp2 TcTcp256 p47 ");
  EXPECT_TRUE(bytes == all);
  EXPECT_EQ(got.summary.tensor_count(), 310u);
  Checksum checksum;
  checksum.Add(std::as_bytes(std::span(all)));
  EXPECT_EQ(got.summary.checksum(), checksum.Value());
}

TEST(ForwardStreamTest, APackCountsUntilItIsSent) {
  int resumed = 0;
  ForwardStream stream(100, [] {});
  stream.OnDrain([&] { ++resumed; });
  EXPECT_TRUE(stream.Push(TensorOf("a", std::string(60, 'a'))));
  EXPECT_FALSE(stream.Push(TensorOf("b", std::string(60, 'b'))));
  config::Limits limits;
  obs::Metrics metrics;
  ServerState state(limits, metrics);
  grpc::CallbackServerContext context;
  Call call(state, context, "Inference.Forward");
  ASSERT_TRUE(stream.Take(call).message.has_value());
  EXPECT_EQ(resumed, 0);
  stream.Sent();
  EXPECT_EQ(resumed, 1);
  EXPECT_TRUE(stream.Push(TensorOf("c", std::string(100, 'c'))));  // exactly nothing was left over
}

// Until then the run's bytes stay charged; before its end half of the buffer would have been enough.
TEST(ForwardStreamTest, BehindTheEndTheRunHearsThatAllIsSent) {
  int resumed = 0;
  ForwardStream stream(10 * kMiB, [] {});
  stream.OnDrain([&] { ++resumed; });
  EXPECT_TRUE(stream.Push(TensorOf("a", std::string(6 * kMiB, 'a'))));
  EXPECT_FALSE(stream.Push(TensorOf("b", std::string(6 * kMiB, 'b'))));
  stream.Finish(absl::OkStatus());
  config::Limits limits;
  obs::Metrics metrics;
  ServerState state(limits, metrics);
  grpc::CallbackServerContext context;
  Call call(state, context, "Inference.Forward");
  std::vector<int> heard;  // after each message
  while (stream.Take(call).message.has_value()) {
    stream.Sent();
    heard.push_back(resumed);
  }
  ASSERT_GT(heard.size(), 6u);
  EXPECT_EQ(heard.back(), 1);
  heard.pop_back();
  EXPECT_EQ(heard, std::vector<int>(heard.size(), 0));
}

// The run may hear a resume that was decided before its end: so it asks, each time.
TEST(ForwardStreamTest, WhatIsUnsentIsKnownAtEachMessage) {
  ForwardStream stream(10 * kMiB, [] {});
  std::vector<bool> at_resume;
  stream.OnDrain([&] { at_resume.push_back(stream.AllSent()); });
  EXPECT_TRUE(stream.AllSent());
  EXPECT_TRUE(stream.Push(TensorOf("a", std::string(8 * kMiB, 'a'))));
  EXPECT_TRUE(stream.WantsMore());
  EXPECT_FALSE(stream.Push(TensorOf("c", std::string(4 * kMiB, 'c'))));
  EXPECT_FALSE(stream.WantsMore());
  config::Limits limits;
  obs::Metrics metrics;
  ServerState state(limits, metrics);
  grpc::CallbackServerContext context;
  Call call(state, context, "Inference.Forward");
  int messages = 0;
  for (; at_resume.empty(); ++messages) {
    EXPECT_FALSE(stream.WantsMore());
    ASSERT_TRUE(stream.Take(call).message.has_value());
    stream.Sent();
  }
  EXPECT_EQ(messages, 1 + 5) << "a tensor's memory is held, and so unsent, until its last byte has left";
  EXPECT_EQ(at_resume, std::vector<bool>{false}) << "it wants more, and holds something yet";
  EXPECT_TRUE(stream.WantsMore());
  EXPECT_TRUE(stream.Push(TensorOf("b", std::string(2 * kMiB, 'b'))));
  stream.Finish(absl::OkStatus());
  EXPECT_FALSE(stream.AllSent());
  while (stream.Take(call).message.has_value()) {
    EXPECT_FALSE(stream.AllSent()) << "the message has not left";
    stream.Sent();
    if (at_resume.size() > 1) break;
  }
  EXPECT_EQ(at_resume, (std::vector<bool>{false, true}));
  EXPECT_TRUE(stream.AllSent());
  ForwardStream stopped(10 * kMiB, [] {});
  stopped.Push(TensorOf("a", std::string(2 * kMiB, 'a')));
  stopped.Finish(absl::OkStatus());
  EXPECT_FALSE(stopped.AllSent());
  stopped.Stop();
  EXPECT_TRUE(stopped.AllSent()) << "nobody reads any more";
}

}  // namespace
}  // namespace fluoroscope::rpc
