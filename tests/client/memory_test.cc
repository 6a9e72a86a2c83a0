#include "client/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace fluoroscope::client {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(ArenaTest, GivesEverySizeAlignedForAnyElement) {
  Arena arena;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, 3 * kMiB + 1, 8 * kMiB, 8 * kMiB + 3, 40 * kMiB}) {
    const OwnedBytes bytes = arena.Allocate(size);
    ASSERT_NE(bytes, nullptr) << size;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.get()) % 16, 0u) << size;
    if (size > 0) bytes[0] = bytes[size - 1] = std::byte{1};
  }
}

TEST(ArenaTest, SaysWhenThereIsNoMemory) {
  EXPECT_EQ(Arena().Allocate(size_t{1} << 60), nullptr);
  EXPECT_EQ(Arena().Allocate(size_t{1} << 47), nullptr);
}

TEST(ArenaTest, TensorsDoNotOverlapAndOutliveTheArenaAndEachOther) {
  std::vector<OwnedBytes> all;
  std::vector<size_t> sizes;
  {
    Arena arena;
    for (size_t i = 0; i < 40; ++i) {
      sizes.push_back(100'000 + i * 123'457);
      all.push_back(arena.Allocate(sizes.back()));
      std::memset(all.back().get(), static_cast<int>(i), sizes.back());
    }
  }
  for (size_t i = 0; i < 40; i += 2) all[i].reset();
  for (size_t i = 1; i < 40; i += 2)
    for (const size_t at : {size_t{0}, sizes[i] / 2, sizes[i] - 1}) ASSERT_EQ(all[i][at], static_cast<std::byte>(i)) << i;
}

// What makes the second reply of a process fast. Dropped on another thread, as a user might.
TEST(ArenaTest, MemoryThatNobodyHoldsIsUsedAgain) {
  OwnedBytes first = Arena().Allocate(20 * kMiB);
  first[0] = std::byte{42};  // fresh memory would be zero
  const std::byte* const where = first.get();
  std::thread([&] { first.reset(); }).join();
  const OwnedBytes second = Arena().Allocate(19 * kMiB);
  EXPECT_EQ(second.get(), where);
  EXPECT_EQ(second[0], std::byte{42});
  const OwnedBytes third = Arena().Allocate(19 * kMiB);  // the other one is in use
  EXPECT_NE(third.get(), where);
}

}  // namespace
}  // namespace fluoroscope::client
