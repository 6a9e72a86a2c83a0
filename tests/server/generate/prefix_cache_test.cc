// What is kept of which sequence, for whom, and when it goes.
#include "generate/prefix_cache.h"

#include <gtest/gtest.h>

#include "tests/server/generate/prefix_caches.h"

namespace fluoroscope::generate {
namespace {

TEST_F(PrefixCacheTest, WhatWasPutIsFoundInWholeBlocks) {
  const auto cache = Cache(10);
  const std::vector<int64_t> ids = Ids(1, 3 * kBlock + 5);
  const model::KvPrefix kv = Values(3 * kBlock + 9);  // a cache has more room than tokens
  EXPECT_EQ(Known(*cache, ids), 0);
  cache->Put("me", model_, ids, kv);
  EXPECT_EQ(cache->bytes(), 3 * BlockBytes());
  EXPECT_EQ(reserved_, cache->bytes());
  const PrefixCache::Found found = cache->Find("me", model_, ids);
  ASSERT_EQ(found.size, 3 * kBlock);
  for (size_t layer = 0; layer < kv.k.size(); ++layer) {
    EXPECT_TRUE(at::equal(found.kv->k[layer], kv.k[layer].narrow(0, 0, found.size)));
    EXPECT_TRUE(at::equal(found.kv->v[layer], kv.v[layer].narrow(0, 0, found.size)));
  }
  EXPECT_EQ(Known(*cache, Ids(1, 2 * kBlock)), 2 * kBlock);
  EXPECT_EQ(Known(*cache, Ids(1, 2 * kBlock - 1)), kBlock);
  EXPECT_EQ(Known(*cache, Ids(1, kBlock - 1)), 0);
  EXPECT_EQ(Known(*cache, {}), 0);
}

TEST_F(PrefixCacheTest, WhatIsThereIsNotKeptTwice) {
  const auto cache = Cache(10);
  cache->Put("me", model_, Ids(1, 2 * kBlock), Values(2 * kBlock));
  cache->Put("me", model_, Ids(1, 2 * kBlock), Values(2 * kBlock, 7));
  EXPECT_EQ(cache->bytes(), 2 * BlockBytes());
  EXPECT_TRUE(at::equal(cache->Find("me", model_, Ids(1, kBlock)).kv->k[0], Values(kBlock).k[0]));
  std::vector<int64_t> fork = Ids(1, 3 * kBlock);
  fork[static_cast<size_t>(kBlock)] = 999;
  cache->Put("me", model_, fork, Values(3 * kBlock, 7));
  EXPECT_EQ(cache->bytes(), 4 * BlockBytes()) << "the first block is shared";
  EXPECT_EQ(Known(*cache, fork), 3 * kBlock);
  EXPECT_EQ(Known(*cache, Ids(1, 3 * kBlock)), 2 * kBlock);
}

TEST_F(PrefixCacheTest, OnlyTheSamePrincipalAndModel) {
  const auto cache = Cache(10);
  const std::vector<int64_t> ids = Ids(1, kBlock);
  cache->Put("me", model_, ids, Values(kBlock));
  EXPECT_EQ(Known(*cache, ids, "you"), 0);
  EXPECT_EQ(Known(*cache, ids, ""), 0);
  const std::shared_ptr<const model::Model> other = model::TinyLlama();
  EXPECT_EQ(cache->Find("me", other, ids).size, 0);
  auto weights = std::make_shared<model::Model>(*model_);
  weights->weights_sha256 = "other";
  EXPECT_EQ(cache->Find("me", std::shared_ptr<const model::Model>(weights), ids).size, 0);
  EXPECT_EQ(Known(*cache, ids), kBlock);
}

TEST_F(PrefixCacheTest, WhatAModelLeavesGoesWithIt) {
  const auto cache = Cache(10);
  std::shared_ptr<const model::Model> gone = model::TinyLlama();
  cache->Put("me", gone, Ids(1, 3 * kBlock), Values(3 * kBlock));
  cache->Put("you", gone, Ids(1, kBlock), Values(kBlock));
  cache->Put("me", model_, Ids(1, kBlock), Values(kBlock));
  gone.reset();
  EXPECT_EQ(Known(*cache, Ids(1, kBlock)), kBlock);
  EXPECT_EQ(cache->bytes(), BlockBytes());
  EXPECT_EQ(reserved_, BlockBytes());
}

TEST_F(PrefixCacheTest, TheOldestGoFirstAndFromTheirEnds) {
  const auto cache = Cache(4);
  cache->Put("me", model_, Ids(1, 2 * kBlock), Values(2 * kBlock));
  cache->Put("me", model_, Ids(1000, 2 * kBlock), Values(2 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, kBlock)), kBlock) << "used: its first block is the newest now";
  cache->Put("you", model_, Ids(5000, kBlock), Values(kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 2 * kBlock)), kBlock);
  EXPECT_EQ(Known(*cache, Ids(1000, 2 * kBlock)), 2 * kBlock);
  cache->Put("you", model_, Ids(6000, 2 * kBlock), Values(2 * kBlock));
  EXPECT_EQ(cache->bytes(), 4 * BlockBytes());
  EXPECT_EQ(Known(*cache, Ids(6000, 2 * kBlock), "you"), 2 * kBlock);
}

TEST_F(PrefixCacheTest, ASequenceThatIsTooLongIsKeptInPart) {
  const auto cache = Cache(3);
  cache->Put("me", model_, Ids(1000, kBlock), Values(kBlock));
  cache->Put("me", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 3 * kBlock) << "its beginning, not its end";
  EXPECT_EQ(reserved_, 3 * BlockBytes());
}

TEST_F(PrefixCacheTest, GiveBackGivesAtLeastSoMuch) {
  const auto cache = Cache(10);
  cache->Put("me", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  cache->GiveBack(1);
  EXPECT_EQ(reserved_, 4 * BlockBytes());
  cache->GiveBack(BlockBytes() + 1);
  EXPECT_EQ(reserved_, 2 * BlockBytes());
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 2 * kBlock);
  cache->GiveBack(uint64_t{1} << 60);
  EXPECT_EQ(reserved_, 0u);
  EXPECT_EQ(cache->bytes(), 0u);
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 0);
}

TEST_F(PrefixCacheTest, NothingIsTakenThatIsNotThere) {
  const auto cache = Cache(10);
  budget_ = 2 * BlockBytes();
  cache->Put("me", model_, Ids(1, 5 * kBlock), Values(5 * kBlock));
  EXPECT_EQ(Known(*cache, Ids(1, 5 * kBlock)), 2 * kBlock);
  EXPECT_EQ(reserved_, 2 * BlockBytes());
  const auto none = Cache(0);
  none->Put("me", model_, Ids(1, kBlock), Values(kBlock));
  EXPECT_EQ(none->bytes(), 0u);
}

}  // namespace
}  // namespace fluoroscope::generate
