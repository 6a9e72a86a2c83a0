// Work in equal blocks, shared out to LibTorch's threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace fluoroscope::model {

// The blocks of one thread that are still to do. Its thread takes them from the front, one after the other as they lie in memory; a thread
// that has done its own takes them from the back.
class alignas(64) BlockShare {
 public:
  void Set(uint32_t begin, uint32_t end) { left_.store(Pack(begin, end), std::memory_order_relaxed); }
  // -1: none is left.
  int64_t TakeFirst() { return Take(true); }
  int64_t TakeLast() { return Take(false); }

 private:
  static uint64_t Pack(uint32_t begin, uint32_t end) { return uint64_t{end} << 32 | begin; }
  int64_t Take(bool first) {
    uint64_t left = left_.load(std::memory_order_relaxed);
    while (true) {
      const auto begin = static_cast<uint32_t>(left), end = static_cast<uint32_t>(left >> 32);
      if (begin == end) return -1;
      const uint64_t rest = first ? Pack(begin + 1, end) : Pack(begin, end - 1);
      if (left_.compare_exchange_weak(left, rest, std::memory_order_relaxed)) return first ? begin : end - 1;
    }
  }

  std::atomic<uint64_t> left_{0};  // first block, and in the upper half the one behind the last
};

// do_block(b) once for each b < blocks, in any order. Shares are equal, and whoever is done early helps the others: one thread that another
// process interrupts holds up nobody (with a client on the same cores that happens at every token). Returns when all are done, and what
// they wrote is seen. Like at::parallel_for, it is for files compiled with -fopenmp.
template <typename DoBlock>
void ForEachBlock(int64_t blocks, const DoBlock& do_block) {
  const int64_t threads = std::clamp<int64_t>(at::get_num_threads(), 1, std::max<int64_t>(blocks, 1));
  std::vector<BlockShare> shares(static_cast<size_t>(threads));
  for (int64_t i = 0; i < threads; ++i)
    shares[static_cast<size_t>(i)].Set(static_cast<uint32_t>(blocks * i / threads), static_cast<uint32_t>(blocks * (i + 1) / threads));
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      BlockShare& own = shares[static_cast<size_t>(i)];
      for (int64_t block = own.TakeFirst(); block >= 0; block = own.TakeFirst()) do_block(block);
      for (int64_t other = 1; other < threads; ++other) {
        BlockShare& share = shares[static_cast<size_t>((i + other) % threads)];
        for (int64_t block = share.TakeLast(); block >= 0; block = share.TakeLast()) do_block(block);
      }
    }
  });
}

}  // namespace fluoroscope::model
