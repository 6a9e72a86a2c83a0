// Prefixes of several principals and threads: who makes room for whom, and what happens while values are being copied.
#include <gtest/gtest.h>

#include <thread>

#include "tests/server/generate/prefix_caches.h"

namespace fluoroscope::generate {
namespace {

// Blocks of the principal's sequences that begin with `from`, `from + 1000`, ..., each of one block.
int CountKnown(PrefixCache& cache, const std::shared_ptr<const model::Model>& model, const std::string& principal, int64_t from, int many) {
  int known = 0;
  for (int i = 0; i < many; ++i) known += cache.Find(principal, model, Ids(from + 1000 * i, kBlock)).size == kBlock ? 1 : 0;
  return known;
}

class PrefixSharingTest : public PrefixCacheTest {
 protected:
  void PutMany(PrefixCache& cache, const std::string& principal, int64_t from, int many) {
    for (int i = 0; i < many; ++i) cache.Put(principal, model_, Ids(from + 1000 * i, kBlock), Values(kBlock, i));
  }
};

TEST_F(PrefixSharingTest, ABusyPrincipalLeavesTheQuietOnesShareAlone) {
  const auto cache = Cache(8);
  PutMany(*cache, "quiet", 1, 4);  // half: its whole share
  PutMany(*cache, "busy", 1, 50);
  EXPECT_EQ(CountKnown(*cache, model_, "quiet", 1, 4), 4) << "though used longest ago";
  EXPECT_EQ(CountKnown(*cache, model_, "busy", 1, 46), 0);
  EXPECT_EQ(CountKnown(*cache, model_, "busy", 46001, 4), 4) << "its newest";
  EXPECT_EQ(cache->bytes(), 8 * BlockBytes());
  EXPECT_EQ(reserved_, 8 * BlockBytes());
}

TEST_F(PrefixSharingTest, WhoHoldsMoreThanItsShareMakesRoom) {
  const auto cache = Cache(8);
  PutMany(*cache, "first", 1, 8);  // alone, it may have everything
  EXPECT_EQ(CountKnown(*cache, model_, "first", 1, 8), 8);
  PutMany(*cache, "second", 1, 3);
  EXPECT_EQ(CountKnown(*cache, model_, "first", 1, 3), 0);
  EXPECT_EQ(CountKnown(*cache, model_, "first", 3001, 5), 5);
  EXPECT_EQ(CountKnown(*cache, model_, "second", 1, 3), 3);
  PutMany(*cache, "third", 1, 8);  // 8 / 3: nobody may be pushed below 2
  EXPECT_EQ(CountKnown(*cache, model_, "second", 1, 3) + CountKnown(*cache, model_, "first", 3001, 5), 5);
  EXPECT_GE(CountKnown(*cache, model_, "second", 1, 3), 2);
  EXPECT_GE(CountKnown(*cache, model_, "first", 3001, 5), 2);
  EXPECT_EQ(CountKnown(*cache, model_, "third", 5001, 3), 3);
  EXPECT_EQ(cache->bytes(), 8 * BlockBytes());
}

TEST_F(PrefixSharingTest, ALongSequenceTakesNoMoreThanItsShareFromOthers) {
  const auto cache = Cache(6);
  PutMany(*cache, "quiet", 1, 3);
  cache->Put("busy", model_, Ids(1, 10 * kBlock), Values(10 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 10 * kBlock), "busy"), 3 * kBlock);
  EXPECT_EQ(CountKnown(*cache, model_, "quiet", 1, 3), 3);
}

TEST_F(PrefixSharingTest, WhatIsGivenBackComesFromWhoHoldsMost) {
  const auto cache = Cache(10);
  PutMany(*cache, "quiet", 1, 2);
  PutMany(*cache, "busy", 1, 6);
  cache->GiveBack(4 * BlockBytes());
  EXPECT_EQ(CountKnown(*cache, model_, "quiet", 1, 2), 2);
  EXPECT_EQ(CountKnown(*cache, model_, "busy", 4001, 2), 2);
  EXPECT_EQ(reserved_, 4 * BlockBytes());
}

TEST_F(PrefixSharingTest, TheBudgetIsAskedWithoutTheLock) {
  const auto cache = Cache(4);
  cache->Put("me", model_, Ids(1, kBlock), Values(kBlock, 3));
  int asked = 0, released = 0;
  on_reserve_ = [&] {  // would wait for ever
    ++asked;
    EXPECT_TRUE(at::equal(cache->Find("me", model_, Ids(1, kBlock)).kv->k[1], Values(kBlock, 3).k[1]));
  };
  on_release_ = [&] { released += cache->bytes() <= 4 * BlockBytes() ? 1 : 0; };
  cache->Put("you", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  EXPECT_EQ(asked, 3);
  cache->GiveBack(4 * BlockBytes());
  EXPECT_EQ(released, 4);
  EXPECT_EQ(reserved_, 0u);
}

TEST_F(PrefixSharingTest, WhatIsWantedBackWhileItIsMadeIsNotKept) {
  const auto cache = Cache(8);
  int asked = 0;
  on_reserve_ = [&] {
    if (++asked == 3) cache->GiveBack(2 * BlockBytes());
  };
  cache->Put("me", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  EXPECT_EQ(asked, 5);
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 3 * kBlock);
  EXPECT_EQ(reserved_, 3 * BlockBytes());
  cache->Put("me", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 5 * kBlock) << "owed once only";
}

TEST_F(PrefixSharingTest, WhatSomebodyElsePutMeanwhileStays) {
  const auto cache = Cache(8);
  bool first = true;
  on_reserve_ = [&] {
    if (!std::exchange(first, false)) return;
    cache->Put("me", model_, Ids(1, 2 * kBlock), Values(2 * kBlock, 5));
  };
  cache->Put("me", model_, Ids(1, 3 * kBlock), Values(3 * kBlock, 9));
  const PrefixCache::Found found = cache->Find("me", model_, Ids(1, 3 * kBlock));
  ASSERT_EQ(found.size, 3 * kBlock);
  EXPECT_TRUE(at::equal(found.kv->v[0].narrow(0, 0, 2 * kBlock), Values(2 * kBlock, 5).v[0]));
  EXPECT_TRUE(at::equal(found.kv->v[0].narrow(0, 2 * kBlock, kBlock), Values(3 * kBlock, 9).v[0].narrow(0, 2 * kBlock, kBlock)));
  EXPECT_EQ(cache->bytes(), 3 * BlockBytes());
  EXPECT_EQ(reserved_, 3 * BlockBytes()) << "the duplicates' bytes went back";
}

TEST_F(PrefixSharingTest, NothingIsPutBehindWhatWentMeanwhile) {
  const auto cache = Cache(8);
  cache->Put("me", model_, Ids(1, kBlock), Values(kBlock));
  bool first = true;
  on_reserve_ = [&] {
    if (std::exchange(first, false)) cache->GiveBack(BlockBytes());
  };
  cache->Put("me", model_, Ids(1, 3 * kBlock), Values(3 * kBlock));
  EXPECT_EQ(cache->bytes(), 0u);
  EXPECT_EQ(reserved_, 0u);
}

// Values are a function of the sequence, so whatever is found must be that, whoever put it, dropped it or copies it at the same time.
TEST_F(PrefixSharingTest, ManyThreadsFindWhatBelongsToTheirSequence) {
  constexpr int kThreads = 4, kRounds = 150, kSequences = 5;
  const auto cache = Cache(9);
  budget_ = 8 * BlockBytes();
  std::vector<model::KvPrefix> values;
  for (int sequence = 0; sequence < kSequences; ++sequence) values.push_back(Values(4 * kBlock, sequence));
  std::atomic<int> wrong = 0, found_blocks = 0;
  const auto work = [&](int thread) {
    const std::string principal = thread % 2 == 0 ? "even" : "odd";
    for (int round = 0; round < kRounds; ++round) {
      const int sequence = (round * (thread + 1) + thread) % kSequences;
      const std::vector<int64_t> ids = Ids(1 + 100000 * sequence, (1 + round % 4) * kBlock);
      const PrefixCache::Found found = cache->Find(principal, model_, ids);
      found_blocks += static_cast<int>(found.size / kBlock);
      for (size_t layer = 0; found.size > 0 && layer < found.kv->k.size(); ++layer) {
        const model::KvPrefix& expected = values[static_cast<size_t>(sequence)];
        wrong += at::equal(found.kv->k[layer], expected.k[layer].narrow(0, 0, found.size)) ? 0 : 1;
        wrong += at::equal(found.kv->v[layer], expected.v[layer].narrow(0, 0, found.size)) ? 0 : 1;
      }
      cache->Put(principal, model_, ids, values[static_cast<size_t>(sequence)]);
      if (round % 7 == thread) cache->GiveBack(static_cast<uint64_t>(round % 3) * BlockBytes());
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back(work, thread);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(found_blocks, 0);
  EXPECT_EQ(reserved_, cache->bytes());
  EXPECT_LE(cache->bytes(), 8 * BlockBytes());
  // Nothing is owed or expected any more: one sequence alone finds all the room.
  cache->GiveBack(uint64_t{1} << 60);
  EXPECT_EQ(reserved_, 0u);
  cache->Put("even", model_, Ids(1, 10 * kBlock), Values(10 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 10 * kBlock), "even"), 8 * kBlock);
}

}  // namespace
}  // namespace fluoroscope::generate
