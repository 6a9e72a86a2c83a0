#include "tensor/counting_allocator.h"

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "ATen/ATen.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::tensor {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr uint64_t kNoCap = UINT64_MAX;

class CountingAllocatorTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    InstallCountingAllocator();
    InstallCountingAllocator();  // does nothing
  }
  void SetUp() override {
    at::ones({8, 8}).matmul(at::ones({8, 8}));  // what LibTorch keeps for itself from its first call on
    base_ = Stats().work.live_bytes;
    ResetPeak();
  }
  void TearDown() override {
    SetCap(kNoCap);
    SetCacheLimit(128 * kMiB);
    ReleaseCache();
    EXPECT_EQ(Stats().work.live_bytes, base_);
    EXPECT_EQ(Stats().weights.live_bytes, 0u);
  }
  uint64_t live() const { return Stats().work.live_bytes - base_; }
  uint64_t peak() const { return Stats().work.peak_bytes - base_; }

  uint64_t base_ = 0;
};

TEST_F(CountingAllocatorTest, CountsLiveAndPeakToTheByte) {
  {
    const at::Tensor a = at::empty({1000}, at::kFloat);
    EXPECT_EQ(live(), 4032u) << "4000 rounded up to 64";
    {
      const at::Tensor b = at::empty({4, 1 << 20}, at::kByte);
      EXPECT_EQ(live(), 4032 + 4 * kMiB);
    }
    EXPECT_EQ(live(), 4032u);
    EXPECT_EQ(peak(), 4032 + 4 * kMiB);
    const at::Tensor empty = at::empty({0});
    EXPECT_EQ(live(), 4032u);
  }
  EXPECT_EQ(live(), 0u);
  ResetPeak();
  EXPECT_EQ(peak(), 0u);
}

TEST_F(CountingAllocatorTest, DataIsAlignedAndDistinct) {
  std::vector<at::Tensor> tensors;
  for (int64_t bytes : {1, 63, 64, 65, 5000, 262'000, 262'144, 3'000'000, 5'000'000}) {
    tensors.push_back(at::full({bytes}, static_cast<int>(tensors.size()), at::kByte));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensors.back().const_data_ptr()) % 64, 0u) << bytes;
  }
  for (size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(tensors[i].eq(static_cast<int>(i)).all().item<bool>()) << i;
}

TEST_F(CountingAllocatorTest, TheCapRefusesWithBothNumbersAndNothingIsLost) {
  const at::Tensor held = at::empty({static_cast<int64_t>(6 * kMiB)}, at::kByte);
  SetCap(base_ + 8 * kMiB);
  const auto refused = GuardTorch([] { return at::empty({static_cast<int64_t>(3 * kMiB)}, at::kByte); });
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.status().message(), "out of memory: " + std::to_string(3 * kMiB) + " more bytes are needed while " +
                                            std::to_string(base_ + 6 * kMiB) + " of the allowed " + std::to_string(base_ + 8 * kMiB) +
                                            " are in use");
  EXPECT_EQ(live(), 6 * kMiB);
  EXPECT_EQ(peak(), 6 * kMiB) << "what was refused was never there";
  EXPECT_TRUE(GuardTorch([] { return at::empty({static_cast<int64_t>(2 * kMiB)}, at::kByte); }).ok())
      << "the next request goes on, up to the cap";
  try {
    at::empty({static_cast<int64_t>(3 * kMiB)}, at::kByte);
    FAIL() << "over the cap";
  } catch (const MemoryCapError& error) {
    EXPECT_EQ(error.wanted_bytes(), 3 * kMiB);
    EXPECT_EQ(error.live_bytes(), base_ + 6 * kMiB);
    EXPECT_EQ(error.cap_bytes(), base_ + 8 * kMiB);
  }
}

TEST_F(CountingAllocatorTest, TheCapHoldsInsideAnOperatorAndItsTemporariesAreFreed) {
  const at::Tensor a = at::ones({256, 1024});
  const uint64_t before = live();
  SetCap(base_ + before + 2 * kMiB);
  const auto result = GuardTorch([&] { return at::softmax(a + 1.0, -1).matmul(a.t()) + a.exp().exp().repeat({4, 1}).sum(); });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
  EXPECT_EQ(live(), before);
}

TEST_F(CountingAllocatorTest, WeightsHaveTheirOwnAccountAndNoCap) {
  at::Tensor weight, work;
  SetCap(base_ + kMiB);
  std::thread loader([&] {
    const ScopedAccount account(Account::kWeights);
    weight = at::empty({static_cast<int64_t>(4 * kMiB)}, at::kByte);
    {
      const ScopedAccount inner(Account::kWork);
      work = at::empty({1024}, at::kByte);
    }
    EXPECT_EQ(Stats().weights.live_bytes, 4 * kMiB);
  });
  loader.join();
  EXPECT_EQ(live(), 1024u);
  EXPECT_EQ(Stats().weights.live_bytes, 4 * kMiB);
  weight.reset();  // on another thread, under another account: back to where it was charged
  EXPECT_EQ(Stats().weights.live_bytes, 0u);
  EXPECT_EQ(live(), 1024u);
  EXPECT_EQ(Stats().weights.peak_bytes, 4 * kMiB);
  EXPECT_EQ(Stats().cached_bytes, 0u) << "unloaded weights are not kept";
  ResetPeak(Account::kWeights);
  EXPECT_EQ(Stats().weights.peak_bytes, 0u);
}

#if !defined(__SANITIZE_ADDRESS__)  // under which freed blocks are not kept
TEST_F(CountingAllocatorTest, BigBlocksAreReusedButNotAtTheCostOfTheCap) {
  const void* first = nullptr;
  {
    const at::Tensor a = at::empty({static_cast<int64_t>(4 * kMiB)}, at::kByte);
    first = a.const_data_ptr();
  }
  EXPECT_EQ(live(), 0u);
  EXPECT_GE(Stats().cached_bytes, 4 * kMiB);
  {
    const at::Tensor b = at::empty({static_cast<int64_t>(4 * kMiB)}, at::kByte);
    EXPECT_EQ(b.const_data_ptr(), first);
    EXPECT_EQ(Stats().cached_bytes, 0u);
  }
  SetCap(base_ + 8 * kMiB);
  const at::Tensor c = at::empty({static_cast<int64_t>(7 * kMiB)}, at::kByte);
  EXPECT_EQ(Stats().cached_bytes, 0u) << "kept and live together stay below the cap";
}
#endif

TEST_F(CountingAllocatorTest, RawAllocationAndResizeWork) {
  c10::Allocator* allocator = c10::GetAllocator(c10::DeviceType::CPU);
  void* raw = allocator->raw_allocate(100);
  ASSERT_NE(raw, nullptr);
  EXPECT_EQ(live(), 128u);
  allocator->raw_deallocate(raw);
  at::Tensor t = at::arange(10, at::kLong);
  t.resize_({100'000});
  EXPECT_EQ(t[9].item<int64_t>(), 9);
}

TEST_F(CountingAllocatorTest, ManyThreadsBalance) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const ScopedAccount account(t % 2 == 0 ? Account::kWork : Account::kWeights);
      for (int i = 0; i < 300; ++i) {
        at::Tensor a = at::empty({1000 + i * 1000}, at::kFloat), b = at::empty({10 + i}, at::kFloat);
        a.narrow(0, 0, 10).zero_();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(live(), 0u);
  EXPECT_LE(Stats().cached_bytes, 128 * kMiB);
}

TEST_F(CountingAllocatorTest, WhatTheSystemCannotGiveIsOutOfMemoryToo) {
#if !defined(__SANITIZE_ADDRESS__)
  const auto result = GuardTorch([] { return at::empty({int64_t{1} << 58}, at::kByte); });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(result.status().message()), testing::HasSubstr("the system has no memory for"));
#endif
}

}  // namespace
}  // namespace fluoroscope::tensor
