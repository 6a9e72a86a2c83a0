#include "tensor/counting_allocator.h"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <new>

#include "absl/strings/str_cat.h"
#include "c10/core/Allocator.h"
#include "tensor/block_cache.h"

namespace fluoroscope::tensor {
namespace {

// From here on a block is its own mapping; below, glibc keeps freed memory well enough by itself.
constexpr size_t kBigBlock = 256u << 10;
constexpr size_t kAlignment = 64;
constexpr uint64_t kNoCap = std::numeric_limits<uint64_t>::max();

class Ledger {
 public:
  // Adds `bytes` unless that goes over the cap. Answers whether it did, and what was live before.
  bool TryCharge(uint64_t bytes, uint64_t cap, uint64_t& before) {
    before = live_.load(std::memory_order_relaxed);
    do {
      if (bytes > cap || before > cap - bytes) return false;
    } while (!live_.compare_exchange_weak(before, before + bytes, std::memory_order_relaxed));
    const uint64_t now = before + bytes;
    uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
    return true;
  }
  void GiveBack(uint64_t bytes) { live_.fetch_sub(bytes, std::memory_order_relaxed); }
  void ResetPeak() { peak_.store(live_.load(std::memory_order_relaxed), std::memory_order_relaxed); }
  uint64_t live() const { return live_.load(std::memory_order_relaxed); }
  uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> live_{0};
  std::atomic<uint64_t> peak_{0};
};

// Lies in the cache line before the data, so that whoever frees the block knows whose it is.
struct alignas(kAlignment) BlockHeader {
  BlockCache::Block block;
  uint64_t charged;
  Account account;
};
static_assert(sizeof(BlockHeader) == kAlignment);

BlockCache::Use UseOf(Account account) { return account == Account::kWork ? BlockCache::Use::kShortLived : BlockCache::Use::kLongLived; }

thread_local Account current_account = Account::kWork;

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = bytes == 0 ? nullptr : Allocate(bytes);
    // Data and context are the same pointer: that makes LibTorch's raw_allocate and copy-on-write storages work.
    return {data, data, &Free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  Ledger& ledger(Account account) { return account == Account::kWork ? work_ : weights_; }
  BlockCache& cache() { return cache_; }
  std::atomic<uint64_t>& cap() { return cap_; }

 private:
  void* Allocate(size_t bytes);
  static void Free(void* data);

  Ledger work_, weights_;
  BlockCache cache_;
  std::atomic<uint64_t> cap_{kNoCap};
};

// Never destroyed: tensors in static objects may be freed after everything else.
CountingAllocator& Instance() {
  static CountingAllocator* const instance = new CountingAllocator;
  return *instance;
}

void* CountingAllocator::Allocate(size_t bytes) {
  const Account account = current_account;
  const uint64_t cap = account == Account::kWork ? cap_.load(std::memory_order_relaxed) : kNoCap;
  const size_t charged = bytes > kNoCap - kAlignment ? bytes : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  uint64_t live = 0;
  if (!ledger(account).TryCharge(charged, cap, live)) throw MemoryCapError(charged, live, cap);
  if (cap != kNoCap && cache_.kept_bytes() > cap - live - charged) cache_.Trim(cap - live - charged);

  const size_t whole = charged + sizeof(BlockHeader);  // a LibTorch size is below 2^63
  BlockCache::Block block;
  if (whole >= kBigBlock) {
    block = cache_.Take(whole, UseOf(account));
  } else {
    // Not aligned_alloc: glibc cuts an aligned block out of a larger one and frees the rest, which takes microseconds.
    block.data = std::malloc(whole + kAlignment);
  }
  if (block.data == nullptr) {
    ledger(account).GiveBack(charged);
    C10_THROW_ERROR(OutOfMemoryError, absl::StrCat("the system has no memory for ", bytes, " more bytes"));
  }
  void* aligned = block.data;
  size_t space = whole + kAlignment;
  std::align(kAlignment, whole, aligned, space);
  auto* const header = new (aligned) BlockHeader{block, charged, account};
  return header + 1;
}

void CountingAllocator::Free(void* data) {
  if (data == nullptr) return;
  const BlockHeader header = *(static_cast<BlockHeader*>(data) - 1);
  CountingAllocator& allocator = Instance();
  if (header.block.capacity != 0) {
    allocator.cache_.Give(header.block, UseOf(header.account));
  } else {
    std::free(header.block.data);
  }
  allocator.ledger(header.account).GiveBack(header.charged);
}

}  // namespace

MemoryCapError::MemoryCapError(uint64_t wanted_bytes, uint64_t live_bytes, uint64_t cap_bytes)
    : c10::OutOfMemoryError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                            absl::StrCat("out of memory: ", wanted_bytes, " more bytes are needed while ", live_bytes, " of the allowed ",
                                         cap_bytes, " are in use")),
      wanted_(wanted_bytes),
      live_(live_bytes),
      cap_(cap_bytes) {}

void InstallCountingAllocator() {
  static std::once_flag once;
  std::call_once(once, [] { c10::SetAllocator(c10::DeviceType::CPU, &Instance(), /*priority=*/1); });
}

AllocatorStats Stats() {
  CountingAllocator& allocator = Instance();
  const Ledger& work = allocator.ledger(Account::kWork);
  const Ledger& weights = allocator.ledger(Account::kWeights);
  return {{work.live(), work.peak()}, {weights.live(), weights.peak()}, allocator.cache().kept_bytes(), allocator.cap().load()};
}

void SetCap(uint64_t bytes) { Instance().cap().store(bytes); }
void ResetPeak(Account account) { Instance().ledger(account).ResetPeak(); }
void SetCacheLimit(uint64_t bytes) { Instance().cache().SetLimit(bytes); }
void ReleaseCache() { Instance().cache().Trim(0); }

ScopedAccount::ScopedAccount(Account account) : previous_(current_account) { current_account = account; }
ScopedAccount::~ScopedAccount() { current_account = previous_; }

}  // namespace fluoroscope::tensor
