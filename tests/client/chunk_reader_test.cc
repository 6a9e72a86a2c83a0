#include "client/chunk_reader.h"

#include <gtest/gtest.h>

#include "tests/client/replies.h"

namespace fluoroscope::client {
namespace {

// What the fast reader says of these bytes.
std::optional<ChunkReader::Prefix> Prefix(const std::string& bytes) {
  grpc::ByteBuffer message = Message(bytes, 3);
  return ChunkReader(&message).ReadPrefix();
}

TEST(ChunkReaderTest, ReadsWhatServersSendHoweverItIsCut) {
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    const uint32_t id = i % 7 == 0 ? 0 : random();
    const uint64_t offset = i % 5 == 0 ? 0 : (uint64_t{random()} << (i % 32));
    const std::string data = RandomBytes(random() % 3000 + 1, random);
    grpc::ByteBuffer message = Message(Bytes(ChunkReply(id, offset, data)), 0, &random);
    ChunkReader reader(&message);
    const auto prefix = reader.ReadPrefix();
    ASSERT_TRUE(prefix.has_value());
    EXPECT_EQ(prefix->tensor_id, id);
    EXPECT_EQ(prefix->offset, offset);
    ASSERT_EQ(prefix->size, data.size());
    std::string read(data.size(), '\0');
    ASSERT_TRUE(reader.ReadData(reinterpret_cast<std::byte*>(read.data()), read.size()));
    EXPECT_EQ(read, data);
  }
}

TEST(ChunkReaderTest, LeavesEverythingElseToTheGeneratedClasses) {
  EXPECT_FALSE(Prefix(""));
  EXPECT_FALSE(Prefix(Bytes(HeaderReply())));
  EXPECT_FALSE(Prefix(Bytes(TensorReply(1, {2}, 2))));
  EXPECT_FALSE(Prefix(Bytes(SummaryReply("", 0))));
  EXPECT_FALSE(
      Prefix("\x1a\x04\x7a\x02"
             "a"));  // truncated
  EXPECT_FALSE(
      Prefix("\x1a\x04\x7a\x02"
             "abc"));  // something follows
  EXPECT_FALSE(
      Prefix("\x1a\x06\x7a\x02"
             "ab\x08\x01"));  // data first: allowed, but not here
  EXPECT_FALSE(
      Prefix(std::string("\x1a\x06\x18\x00\x7a\x02"
                         "ab",
                         8)));                                                                // a field of a newer server
  EXPECT_FALSE(Prefix(std::string("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12)));  // no varint
  EXPECT_FALSE(
      Prefix(std::string("\x1a\x09\x08\x80\x80\x80\x80\x10\x7a\x01"
                         "a",
                         11)));  // an id beyond 32 bits
}

TEST(ChunkReaderTest, EveryTruncationIsRefused) {
  const std::string whole = Bytes(ChunkReply(300, 1 << 20, "abcdefgh"));
  ASSERT_TRUE(Prefix(whole));
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(Prefix(whole.substr(0, size))) << size;
}

// Whatever the bytes are: what the fast reader accepts, the generated classes read the same way.
TEST(ChunkReaderTest, NeverDisagreesWithTheGeneratedClasses) {
  std::mt19937 random(3);
  int accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    std::string bytes = Bytes(ChunkReply(random() % 300, random() % 100000, RandomBytes(random() % 20, random)));
    for (int changes = random() % 3; changes > 0 && !bytes.empty(); --changes) {
      bytes[random() % std::min<size_t>(bytes.size(), 12)] = static_cast<char>(random());
    }
    grpc::ByteBuffer message = Message(bytes, 0, &random);
    ChunkReader reader(&message);
    const auto prefix = reader.ReadPrefix();
    if (!prefix) continue;
    ++accepted;
    std::string data(prefix->size, '\0');
    ASSERT_TRUE(reader.ReadData(reinterpret_cast<std::byte*>(data.data()), data.size()));
    v1::ForwardReply reply;
    ASSERT_TRUE(reply.ParseFromString(bytes));
    EXPECT_EQ(reply.chunk().tensor_id(), prefix->tensor_id);
    EXPECT_EQ(reply.chunk().offset(), prefix->offset);
    EXPECT_EQ(reply.chunk().data(), data);
  }
  EXPECT_GT(accepted, 20000);
}

}  // namespace
}  // namespace fluoroscope::client
