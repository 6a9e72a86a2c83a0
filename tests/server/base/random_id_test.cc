#include "base/random_id.h"

#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "gtest/gtest.h"

namespace fluoroscope {
namespace {

using JobId = Id<struct JobTag>;
using HandleId = Id<struct HandleTag>;
static_assert(!std::is_convertible_v<JobId, HandleId>);
static_assert(!std::is_constructible_v<JobId, HandleId>);

TEST(Id128, HexIsThirtyTwoDigitsInOrder) {
  Id128 id;
  for (size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<uint8_t>(17 * i);
  EXPECT_EQ(id.ToHex(), "00112233445566778899aabbccddeeff");
  const absl::StatusOr<Id128> back = Id128::FromHex("00112233445566778899aabbccddeeff");
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, id);
}

TEST(Id128, RandomOnesRoundTripAndDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const Id128 id = Id128::Random();
    const absl::StatusOr<Id128> back = Id128::FromHex(id.ToHex());
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, id);
    EXPECT_TRUE(seen.insert(id.ToHex()).second);
  }
}

TEST(Id128, EveryBitIsRandom) {
  Id128 any_set, all_set;
  all_set.bytes.fill(0xff);
  for (int i = 0; i < 200; ++i) {  // a bit that stays the same 200 times by chance: 2^-199
    const Id128 id = Id128::Random();
    for (size_t b = 0; b < id.bytes.size(); ++b) {
      any_set.bytes[b] |= id.bytes[b];
      all_set.bytes[b] &= id.bytes[b];
    }
  }
  EXPECT_EQ(any_set.ToHex(), std::string(32, 'f'));
  EXPECT_EQ(all_set.ToHex(), std::string(32, '0'));
}

TEST(Id128, AnythingElseIsRefusedWithoutEcho) {
  const std::string good = "00112233445566778899aabbccddeeff";
  for (const std::string& bad : {std::string(), good.substr(1), good + "0", std::string("00112233445566778899AABBCCDDEEFF"),
                                 std::string("0x112233445566778899aabbccddeeff"), "g" + good.substr(1), good.substr(1) + '\0',
                                 std::string("<script>alert(document.cookie)</"), std::string(32, '\xff')}) {
    const absl::StatusOr<Id128> id = Id128::FromHex(bad);
    ASSERT_FALSE(id.ok()) << bad;
    EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(id.status().message(), "an id is 32 lower-case hexadecimal digits, as the server gave it");
  }
}

TEST(Id, TypedIdsAreValuesThatHashAndOrder) {
  EXPECT_EQ(JobId(), JobId());
  EXPECT_EQ(JobId().ToHex(), std::string(32, '0'));
  const JobId id = JobId::Random();
  const absl::StatusOr<JobId> back = JobId::FromHex(id.ToHex());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, id);
  EXPECT_FALSE(JobId::FromHex("no").ok());
  EXPECT_LT(JobId(), id);

  std::unordered_set<JobId> ids = {id};
  EXPECT_TRUE(ids.contains(*back));
  for (int i = 0; i < 500; ++i) ids.insert(JobId::Random());
  EXPECT_EQ(ids.size(), 501U);
}

TEST(Id, ManyThreadsNeverDrawTheSameOne) {
  std::vector<std::vector<JobId>> drawn(4);
  {
    std::vector<std::jthread> threads;
    for (std::vector<JobId>& mine : drawn) {
      threads.emplace_back([&mine] {
        for (int i = 0; i < 500; ++i) mine.push_back(JobId::Random());
      });
    }
  }
  std::set<JobId> all;
  for (const std::vector<JobId>& mine : drawn) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), 2000U);
}

}  // namespace
}  // namespace fluoroscope
