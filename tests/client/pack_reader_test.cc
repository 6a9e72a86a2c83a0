#include "client/pack_reader.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/client/replies.h"

namespace fluoroscope::client {
namespace {

// What the fast reader says of these bytes.
std::optional<PackReader::Prefix> Prefix(const std::string& bytes) {
  grpc::ByteBuffer message = Message(bytes, 3);
  return PackReader(&message).ReadPrefix();
}

v1::ForwardReply RandomPack(std::mt19937& random) {
  std::vector<v1::ForwardReply> headers;
  for (int count = random() % 4; count > 0; --count)
    headers.push_back(TensorReply(random(), {static_cast<int64_t>(random())}, random() % 999));
  return PackReply(headers, RandomBytes(random() % 100 + 1, random));
}

TEST(PackReaderTest, ReadsWhatServersSendHoweverItIsCut) {
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    const v1::ForwardReply reply = RandomPack(random);
    const std::string& data = reply.pack().data();
    grpc::ByteBuffer message = Message(Bytes(reply), 0, &random);
    PackReader reader(&message);
    auto prefix = reader.ReadPrefix();
    ASSERT_TRUE(prefix.has_value());
    ASSERT_EQ(prefix->size, data.size());
    std::string read(data.size(), '\0');
    for (size_t at = 0; at < data.size();) {  // tensor by tensor
      const size_t size = std::min<size_t>(random() % 30, data.size() - at);
      ASSERT_TRUE(reader.ReadData(reinterpret_cast<std::byte*>(read.data() + at), size));
      at += size;
    }
    prefix->pack.set_data(read);
    EXPECT_EQ(Bytes(prefix->pack), Bytes(reply.pack()));
  }
}

TEST(PackReaderTest, LeavesEverythingElseToTheGeneratedClasses) {
  EXPECT_FALSE(Prefix(""));
  EXPECT_FALSE(Prefix(Bytes(HeaderReply())));
  EXPECT_FALSE(Prefix(Bytes(ChunkReply(0, 0, "ab"))));
  EXPECT_FALSE(Prefix(Bytes(SummaryReply("", 0))));
  EXPECT_FALSE(
      Prefix("\x2a\x06\x7a\x02"
             "ab\x0a" +
             std::string(1, '\0')));  // data first: allowed, but not here
  EXPECT_FALSE(
      Prefix("\x2a\x04\x7a\x02"
             "abc"));  // something follows
  EXPECT_FALSE(
      Prefix("\x2a\x06\x0a\x09\x7a\x02"
             "ab"));  // a header beyond the end
  EXPECT_FALSE(Prefix("\x2a\x06\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"));
}

TEST(PackReaderTest, EveryTruncationIsRefused) {
  const std::string whole = Bytes(PackReply({TensorReply(1, {2}, 2), TensorReply(300, {6}, 6)}, "abcdefgh"));
  ASSERT_TRUE(Prefix(whole));
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(Prefix(whole.substr(0, size))) << size;
}

// Whatever the bytes are: what the fast reader accepts, the generated classes read the same way.
TEST(PackReaderTest, NeverDisagreesWithTheGeneratedClasses) {
  google::protobuf::LogSilencer quiet;  // names that are no longer UTF-8
  std::mt19937 random(3);
  int accepted = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string bytes = Bytes(RandomPack(random));
    for (int changes = random() % 3; changes > 0; --changes)
      bytes[random() % std::min<size_t>(bytes.size(), 60)] = static_cast<char>(random());
    grpc::ByteBuffer message = Message(bytes, 0, &random);
    PackReader reader(&message);
    auto prefix = reader.ReadPrefix();
    if (!prefix) continue;
    ++accepted;
    std::string data(prefix->size, '\0');
    ASSERT_TRUE(reader.ReadData(reinterpret_cast<std::byte*>(data.data()), data.size()));
    v1::ForwardReply reply;
    ASSERT_TRUE(reply.ParseFromString(bytes));
    prefix->pack.set_data(data);
    EXPECT_EQ(Bytes(reply.pack()), Bytes(prefix->pack));
  }
  EXPECT_GT(accepted, 10000);
}

}  // namespace
}  // namespace fluoroscope::client
