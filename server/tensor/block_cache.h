// Where the counting allocator's big blocks come from: pages of the system, kept for reuse after they are freed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fluoroscope::tensor {

// Owns the blocks it keeps. Any thread may call. Measured (allocate, touch, free, in CPU time): 4 MiB in 1.1 ms with glibc, which gives the
// pages back each time, and 0.14 ms with a kept block; 200 MiB of fresh pages in 92 ms, 31 ms as huge pages.
class BlockCache {
 public:
  struct Block {
    void* data = nullptr;  // page-aligned; nullptr: the system has no memory
    size_t capacity = 0;   // at least what was asked for
  };

  // What a block is for. Short-lived ones are kept for reuse. Long-lived ones (weights) are not, because they would only push useful blocks
  // out; the pages of small ones are all made at once instead. Large ones get huge pages: SmolLM2 generates 49 instead of 43 tokens a
  // second with its weights in them (medians of 5 in turns). In a virtual machine whose host has to find fresh huge pages a load may take
  // half a second longer.
  enum class Use { kShortLived, kLongLived };

  // A block of at least `bytes`, its contents undefined: the most recently freed one that fits and is at most half too large, else fresh
  // pages.
  Block Take(size_t bytes, Use use);

  // Takes a block back. A short-lived one stays for reuse, at the cost of the longest unused ones when there is more than the limit.
  void Give(Block block, Use use);

  // Gives the longest unused blocks back to the system until at most `bytes` are kept.
  void Trim(uint64_t bytes);

  void SetLimit(uint64_t bytes);
  uint64_t kept_bytes() const { return kept_bytes_.load(std::memory_order_relaxed); }

 private:
  void TrimTo(uint64_t bytes, std::vector<Block>& freed);  // under mutex_; the caller unmaps `freed` without it

  std::mutex mutex_;
  std::vector<Block> kept_;              // longest unused first; a few hundred at most, so a scan costs less than a page fault
  std::atomic<uint64_t> kept_bytes_{0};  // written under mutex_
  uint64_t limit_ = 128u << 20;
};

}  // namespace fluoroscope::tensor
