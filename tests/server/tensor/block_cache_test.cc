#include "tensor/block_cache.h"

#include <cstdint>
#include <cstring>

#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

constexpr size_t kMiB = 1u << 20;
constexpr auto kWork = BlockCache::Use::kShortLived;
constexpr auto kWeights = BlockCache::Use::kLongLived;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeeps = false;  // under the address sanitizer every block is freed at once
#else
constexpr bool kKeeps = true;
#endif

TEST(BlockCacheTest, BlocksAreUsableToTheirEnds) {
  BlockCache cache;
  for (const size_t bytes : {size_t{1}, size_t{5000}, kMiB, 2 * kMiB, 5 * kMiB + 77}) {
    for (const auto use : {kWork, kWeights}) {
      const BlockCache::Block block = cache.Take(bytes, use);
      ASSERT_NE(block.data, nullptr);
      EXPECT_GE(block.capacity, bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data) % 4096, 0u);
      std::memset(block.data, 1, block.capacity);
      cache.Give(block, kWeights);
    }
  }
  EXPECT_EQ(cache.kept_bytes(), 0u);
}

TEST(BlockCacheTest, ReusesTheMostRecentBlockThatFits) {
  if (!kKeeps) GTEST_SKIP() << "nothing is kept under the address sanitizer";
  BlockCache cache;
  const auto a = cache.Take(4 * kMiB, kWork), b = cache.Take(4 * kMiB, kWork), big = cache.Take(16 * kMiB, kWork);
  cache.Give(a, kWork);
  cache.Give(b, kWork);
  cache.Give(big, kWork);
  EXPECT_EQ(cache.kept_bytes(), 24 * kMiB);
  EXPECT_EQ(cache.Take(4 * kMiB, kWork).data, b.data) << "not the big one: that would waste three quarters";
  EXPECT_EQ(cache.Take(4 * kMiB - 100, kWork).data, a.data);
  const auto fresh = cache.Take(4 * kMiB, kWork);
  EXPECT_NE(fresh.data, big.data);
  EXPECT_EQ(cache.kept_bytes(), 16 * kMiB);
  cache.Trim(0);
  EXPECT_EQ(cache.kept_bytes(), 0u);
  for (const auto& block : {a, b, fresh}) cache.Give(block, kWeights);
}

TEST(BlockCacheTest, TheLongestUnusedGoesFirst) {
  if (!kKeeps) GTEST_SKIP() << "nothing is kept under the address sanitizer";
  BlockCache cache;
  cache.SetLimit(8 * kMiB);
  const auto a = cache.Take(4 * kMiB, kWork), b = cache.Take(4 * kMiB, kWork), c = cache.Take(4 * kMiB, kWork),
             huge = cache.Take(9 * kMiB, kWork);
  for (const auto& block : {a, b, c}) cache.Give(block, kWork);
  EXPECT_EQ(cache.kept_bytes(), 8 * kMiB);
  cache.Give(huge, kWork);
  EXPECT_EQ(cache.kept_bytes(), 8 * kMiB) << "a block beyond the limit pushes nothing out";
  EXPECT_EQ(cache.Take(4 * kMiB, kWork).data, c.data);
  EXPECT_EQ(cache.Take(4 * kMiB, kWork).data, b.data);
  EXPECT_EQ(cache.kept_bytes(), 0u);
  cache.Give(b, kWeights);
  cache.Give(c, kWeights);
  cache.SetLimit(0);
}

TEST(BlockCacheTest, AnImpossibleSizeGivesNothing) {
  if (!kKeeps) GTEST_SKIP() << "the address sanitizer ends the process instead";
  BlockCache cache;
  EXPECT_EQ(cache.Take(size_t{1} << 60, kWork).data, nullptr);
}

}  // namespace
}  // namespace fluoroscope::tensor
