#include "client/assembler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/client/replies.h"

namespace fluoroscope::client {
namespace {

using testing::HasSubstr;

absl::StatusOr<ForwardResult> Assemble(const std::vector<v1::ForwardReply>& replies, std::mt19937* random = nullptr) {
  Assembler assembler;
  for (const v1::ForwardReply& reply : replies) {
    grpc::ByteBuffer message = Message(Bytes(reply), 5, random);
    if (absl::Status status = assembler.Take(&message); !status.ok()) return status;
  }
  return assembler.Finish();
}

void ExpectDataLoss(const std::vector<v1::ForwardReply>& replies, const std::string& why) {
  auto result = Assemble(replies);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << why;
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(why));
}

std::string Text(const Tensor& tensor) { return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.size}; }

TEST(AssemblerTest, PutsTensorsTogetherHoweverTheyAreCut) {
  std::mt19937 random(11);
  for (int round = 0; round < 50; ++round) {
    std::vector<v1::ForwardReply> replies{HeaderReply()};
    std::vector<std::string> tensors;
    std::string all;
    const uint32_t count = random() % 4;
    for (uint32_t id = 0; id < count; ++id) {
      const std::string bytes = RandomBytes(random() % 4000, random);
      replies.push_back(TensorReply(id, {static_cast<int64_t>(bytes.size())}, bytes.size()));
      for (size_t at = 0; at < bytes.size();) {
        const size_t size = std::min<size_t>(random() % 900 + 1, bytes.size() - at);
        replies.push_back(ChunkReply(id, at, bytes.substr(at, size)));
        at += size;
      }
      tensors.push_back(bytes);
      all += bytes;
    }
    replies.push_back(SummaryReply(all, count));
    auto result = Assemble(replies, &random);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->tensors.size(), count);
    for (uint32_t id = 0; id < count; ++id) EXPECT_EQ(Text(result->tensors[id]), tensors[id]);
    EXPECT_EQ(result->header.rows(0).token_ids(0), 7);
  }
}

TEST(AssemblerTest, SaysWhatEachTensorIs) {
  auto result = Assemble({HeaderReply(), TensorReply(4, {1, 2}, 2), ChunkReply(4, 0, "ab"), SummaryReply("ab", 1)});
  ASSERT_TRUE(result.ok()) << result.status();
  const Tensor* tensor = result->Find("blocks.4.hook_z", 1);
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(tensor->dtype, v1::DTYPE_BOOL);
  EXPECT_EQ(tensor->layer, 4u);
  EXPECT_EQ(tensor->positions, std::vector<int32_t>{4});
  EXPECT_EQ(tensor->token_ids, std::vector<int64_t>{99});
  EXPECT_EQ(result->Find("blocks.4.hook_z", 0), nullptr);
  EXPECT_EQ(result->Find("blocks.4.hook_z", 1, "values"), nullptr);
}

TEST(AssemblerTest, TensorsMayTakeTurns) {
  auto result = Assemble({HeaderReply(), TensorReply(0, {4}, 4), TensorReply(1, {2}, 2), ChunkReply(0, 0, "ab"), ChunkReply(1, 0, "xy"),
                          ChunkReply(0, 2, "cd"), SummaryReply("abxycd", 2)});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Text(result->tensors[0]), "abcd");
  EXPECT_EQ(Text(result->tensors[1]), "xy");
}

TEST(AssemblerTest, AnUnusualEncodingIsReadByTheGeneratedClasses) {
  Assembler assembler;
  std::vector<std::string> messages{Bytes(HeaderReply()), Bytes(TensorReply(1, {2}, 2)),
                                    std::string("\x1a\x06\x7a\x02"
                                                "ab\x08\x01"),        // data before the id
                                    std::string("\x92\x3f\x01x", 4),  // a part of a newer server
                                    Bytes(SummaryReply("ab", 1))};
  for (const std::string& bytes : messages) {
    grpc::ByteBuffer message = Message(bytes, 2);
    ASSERT_TRUE(assembler.Take(&message).ok());
  }
  EXPECT_EQ(Text(assembler.Finish()->tensors[0]), "ab");
}

TEST(AssemblerTest, LyingOffsets) {
  const auto header = HeaderReply(), tensor = TensorReply(0, {4}, 4), summary = SummaryReply("abcd", 1);
  for (uint64_t offset : {uint64_t{1}, uint64_t{4}, uint64_t{5}, ~uint64_t{0}, uint64_t{1} << 63}) {
    ExpectDataLoss({header, tensor, ChunkReply(0, offset, "abcd"), summary}, "where byte 0 was next");
  }
  ExpectDataLoss({header, tensor, ChunkReply(0, 0, "ab"), ChunkReply(0, 0, "ab")}, "where byte 2 was next");          // again
  ExpectDataLoss({header, tensor, ChunkReply(0, 0, "ab"), ChunkReply(0, 3, "d")}, "where byte 2 was next");           // a hole
  ExpectDataLoss({header, tensor, ChunkReply(0, 0, "ab"), ChunkReply(0, 2, "cde")}, "chunk of 3 bytes at offset 2");  // over the end
  ExpectDataLoss({header, tensor, ChunkReply(0, 0, "abcde")}, "(4 bytes)");
  ExpectDataLoss({header, tensor, ChunkReply(9, 0, "abcd")}, "tensor 9, which was not announced");
}

TEST(AssemblerTest, PacksAndChunksInAnyMixture) {
  std::mt19937 random(12);
  for (int round = 0; round < 200; ++round) {
    std::vector<v1::ForwardReply> replies{HeaderReply()};
    std::vector<std::string> tensors;
    std::string all;
    for (int message = random() % 5; message > 0; --message) {
      std::vector<v1::ForwardReply> headers;
      std::string data;
      for (int count = random() % 6; count > 0; --count) {
        const std::string bytes = RandomBytes(random() % 4 == 0 ? 0 : random() % 300, random);
        headers.push_back(TensorReply(tensors.size(), {static_cast<int64_t>(bytes.size())}, bytes.size()));
        data += bytes;
        tensors.push_back(bytes);
      }
      all += data;
      replies.push_back(PackReply(headers, data));
      if (random() % 2 != 0) {
        replies.push_back(TensorReply(tensors.size(), {4}, 4));
        replies.push_back(ChunkReply(tensors.size(), 0, "abcd"));
        tensors.push_back("abcd");
        all += "abcd";
      }
    }
    replies.push_back(SummaryReply(all, tensors.size()));
    auto result = Assemble(replies, &random);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->tensors.size(), tensors.size());
    for (size_t id = 0; id < tensors.size(); ++id) EXPECT_EQ(Text(result->tensors[id]), tensors[id]);
  }
}

TEST(AssemblerTest, PacksThatLie) {
  const auto header = HeaderReply(), a = TensorReply(0, {2}, 2), b = TensorReply(1, {3}, 3);
  ASSERT_TRUE(Assemble({header, PackReply({a, b}, "abcde"), SummaryReply("abcde", 2)}).ok());
  ExpectDataLoss({header, PackReply({a, b}, "abcd")}, "a pack of 4 bytes is too short for its 2 tensors");
  ExpectDataLoss({header, PackReply({a, b}, "abcdef")}, "a pack has 1 bytes more than its 2 tensors");
  ExpectDataLoss({header, PackReply({}, "a")}, "a pack has 1 bytes more");
  ExpectDataLoss({header, PackReply({a, a}, "abcd")}, "two tensors have the id 0");
  ExpectDataLoss({header, a, PackReply({a}, "ab")}, "two tensors have the id 0");
  ExpectDataLoss({header, PackReply({a}, "ab"), ChunkReply(0, 0, "ab")}, "where byte 2 was next");
  ExpectDataLoss({header, PackReply({TensorReply(0, {3}, 2)}, "ab")}, "says it has 2 bytes");
  // Sums that only fit when they overflow, and a size that no message can have: refused before anything is allocated.
  const uint64_t half = uint64_t{1} << 63;
  ExpectDataLoss({header, PackReply({TensorReply(0, {int64_t{1} << 62, 2}, half), TensorReply(1, {int64_t{1} << 62, 2}, half)}, "")},
                 "too short");
  ExpectDataLoss({header, PackReply({TensorReply(0, {int64_t{1} << 60}, uint64_t{1} << 60)}, "ab")}, "too short");
  ExpectDataLoss({header, PackReply({a, b}, "abcdE"), SummaryReply("abcde", 2)}, "the checksum of its tensors is");
  ExpectDataLoss({header, PackReply({a, b}, "abcde"), SummaryReply("abcde", 3)}, "the server sent 3 with 5");
}

TEST(AssemblerTest, APackInAnUnusualEncodingIsReadToo) {
  const std::string header = Bytes(TensorReply(0, {2}, 2).tensor());
  std::string inner =
      "\x7a\x02"
      "ab\x0a";  // data first
  inner += static_cast<char>(header.size()) + header;
  Assembler assembler;
  for (const std::string& bytes :
       {Bytes(HeaderReply()), "\x2a" + std::string(1, static_cast<char>(inner.size())) + inner, Bytes(SummaryReply("ab", 1))}) {
    grpc::ByteBuffer message = Message(bytes, 3);
    ASSERT_TRUE(assembler.Take(&message).ok());
  }
  const auto result = assembler.Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Text(result->tensors[0]), "ab");
}

TEST(AssemblerTest, LyingSizes) {
  for (const auto& tensor : {TensorReply(0, {4}, 5), TensorReply(0, {4}, 4, v1::DTYPE_F32), TensorReply(0, {-4}, 4),
                             TensorReply(0, {4}, 4, v1::DTYPE_UNSPECIFIED), TensorReply(0, {int64_t{1} << 32, int64_t{1} << 32}, 0),
                             TensorReply(0, {int64_t{1} << 62, 4}, 0), TensorReply(0, {}, 0)}) {
    ExpectDataLoss({HeaderReply(), tensor}, "says it has");
  }
  // More than there can be: an answer, not the end of the process.
  auto huge = Assemble({HeaderReply(), TensorReply(0, {int64_t{1} << 60}, uint64_t{1} << 60)});
  EXPECT_EQ(huge.status().code(), absl::StatusCode::kResourceExhausted) << huge.status();
}

TEST(AssemblerTest, AScalarAndAnEmptyTensor) {
  auto result = Assemble({HeaderReply(), TensorReply(0, {}, 1), ChunkReply(0, 0, "a"), TensorReply(1, {0, 5}, 0), SummaryReply("a", 2)});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Text(result->tensors[0]), "a");
  EXPECT_EQ(result->tensors[1].size, 0u);
}

TEST(AssemblerTest, MissingParts) {
  const auto header = HeaderReply(), tensor = TensorReply(0, {4}, 4), chunk = ChunkReply(0, 0, "abcd"), summary = SummaryReply("abcd", 1);
  ExpectDataLoss({}, "without its header");
  ExpectDataLoss({tensor, chunk, summary}, "without its header");
  ExpectDataLoss({header, tensor, chunk}, "without its summary");
  ExpectDataLoss({header, tensor, ChunkReply(0, 0, "abc"), SummaryReply("abc", 1)}, "ended after 3 of 4 bytes");
  ExpectDataLoss({header, tensor, chunk, SummaryReply("abcd", 2)}, "the server sent 2 with 4");
  ExpectDataLoss({header, tensor, chunk, SummaryReply("abcde", 1)}, "the server sent 1 with 5");
  ExpectDataLoss({header, header}, "two headers");
  ExpectDataLoss({header, tensor, tensor}, "two tensors have the id 0");
  ExpectDataLoss({header, SummaryReply("", 0), SummaryReply("", 0)}, "two summaries");
}

TEST(AssemblerTest, AWrongChecksum) {
  ExpectDataLoss({HeaderReply(), TensorReply(0, {4}, 4), ChunkReply(0, 0, "abcD"), SummaryReply("abcd", 1)},
                 "the checksum of its tensors is");
}

TEST(AssemblerTest, EveryFlippedBitIsNoticed) {
  const std::string data = "some bytes";
  std::vector<std::string> good{Bytes(HeaderReply()), Bytes(TensorReply(0, {10}, 10)), Bytes(ChunkReply(0, 0, data)),
                                Bytes(SummaryReply(data, 1))};
  for (size_t bit = 0; bit < good[2].size() * 8; ++bit) {
    auto bad = good;
    bad[2][bit / 8] ^= static_cast<char>(1 << (bit % 8));
    Assembler assembler;
    absl::Status status;
    for (const std::string& bytes : bad) {
      grpc::ByteBuffer message = Message(bytes, 4);
      status.Update(assembler.Take(&message));
    }
    if (status.ok()) status = assembler.Finish().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << bit << " " << status;
  }
}

TEST(AssemblerTest, GarbageIsRefused) {
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    Assembler assembler;
    grpc::ByteBuffer message = Message(RandomBytes(random() % 60, random), 0, &random);
    (void)assembler.Take(&message);
    EXPECT_FALSE(assembler.Finish().ok());
  }
}

}  // namespace
}  // namespace fluoroscope::client
