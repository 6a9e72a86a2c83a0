#include "tensor/block_cache.h"

#include <sys/mman.h>

#include <cstdlib>

namespace fluoroscope::tensor {
namespace {

// The address sanitizer must see every free, so nothing is reused or mapped behind its back.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = 2u << 20;

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Sizes come in classes, four to each doubling, so that a batch that grows from layer to layer finds the blocks of the layers before. What
// is mapped beyond need is never touched and costs no memory.
size_t ClassOf(size_t bytes) {
  size_t step = kPage;
  while (step * 8 < bytes) step *= 2;
  return RoundUp(bytes, step);
}

BlockCache::Block Map(size_t bytes, BlockCache::Use use) {
  const size_t capacity = use == BlockCache::Use::kShortLived ? ClassOf(bytes) : RoundUp(bytes, kPage);
  if (kSanitized) return {std::aligned_alloc(kPage, capacity), capacity};
  // Huge pages need blocks that begin at their border: map more and cut off what lies before and behind.
  const bool huge = capacity >= kHugePage;
  const size_t mapped = capacity + (huge ? kHugePage : 0);
  const int populate = use == BlockCache::Use::kLongLived && !huge ? MAP_POPULATE : 0;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | populate, -1, 0);
  if (memory == MAP_FAILED) return {};
  if (!huge) return {memory, capacity};
  char* const begin = static_cast<char*>(memory);
  char* const data = begin + (RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin));
  if (data > begin) munmap(begin, static_cast<size_t>(data - begin));
  if (begin + mapped > data + capacity) munmap(data + capacity, static_cast<size_t>(begin + mapped - (data + capacity)));
  // A hint; without it everything works, slower.
  madvise(data, capacity, MADV_HUGEPAGE);
  return {data, capacity};
}

void Unmap(BlockCache::Block block) {
  if (kSanitized) {
    std::free(block.data);
  } else {
    munmap(block.data, block.capacity);
  }
}

}  // namespace

BlockCache::Block BlockCache::Take(size_t bytes, Use use) {
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = kept_.size(); i-- > 0;) {
      if (kept_[i].capacity < bytes || kept_[i].capacity - bytes > bytes / 2) continue;
      const Block block = kept_[i];
      kept_.erase(kept_.begin() + static_cast<ptrdiff_t>(i));
      kept_bytes_ -= block.capacity;
      return block;
    }
  }
  return Map(bytes, use);
}

void BlockCache::Give(Block block, Use use) {
  std::vector<Block> freed;
  {
    const std::lock_guard lock(mutex_);
    if (use == Use::kLongLived || kSanitized || block.capacity > limit_) {
      freed.push_back(block);
    } else {
      kept_.push_back(block);
      kept_bytes_ += block.capacity;
      TrimTo(limit_, freed);
    }
  }
  for (const Block& old : freed) Unmap(old);
}

void BlockCache::Trim(uint64_t bytes) {
  std::vector<Block> freed;
  {
    const std::lock_guard lock(mutex_);
    TrimTo(bytes, freed);
  }
  for (const Block& old : freed) Unmap(old);
}

void BlockCache::SetLimit(uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }
  Trim(bytes);
}

void BlockCache::TrimTo(uint64_t bytes, std::vector<Block>& freed) {
  size_t count = 0;
  while (kept_bytes_ > bytes) {
    freed.push_back(kept_[count]);
    kept_bytes_ -= kept_[count++].capacity;
  }
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<ptrdiff_t>(count));
}

}  // namespace fluoroscope::tensor
