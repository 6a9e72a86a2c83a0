// LibTorch's CPU memory, counted and capped: an over-use becomes a failed request instead of a killed process.
//
// Every CPU tensor allocated after InstallCountingAllocator() is charged to the account of the thread that allocates it (kWork unless a
// ScopedAccount says otherwise) and given back to the same account by whichever thread frees it. What is charged is the bytes asked for,
// rounded up to 64: the same plan always counts the same. Not counted: tensors from before, memory-mapped views, other devices, and what
// MKL, oneDNN and model/tile_linear take for themselves (the last 1.1 MiB, and 0.15 for each thread).
//
// Big blocks that are freed are kept for reuse (a fresh 4 MB costs a thousand page faults), up to a bound. Kept blocks are charged to
// nobody but count against the cap: they are handed back before an allocation is refused.
#pragma once

#include <cstdint>

#include "c10/util/Exception.h"

namespace fluoroscope::tensor {

enum class Account { kWork, kWeights };

struct AccountStats {
  uint64_t live_bytes = 0;
  uint64_t peak_bytes = 0;  // since the start or the last ResetPeak
};

struct AllocatorStats {
  AccountStats work;
  AccountStats weights;
  uint64_t cached_bytes = 0;  // freed, kept for reuse
  uint64_t cap_bytes = 0;     // of kWork; UINT64_MAX: none
};

// Thrown out of an ATen call whose allocation would go over the cap. It is a c10::OutOfMemoryError, which is also what is thrown when the
// system itself has no memory; GuardTorch turns both into RESOURCE_EXHAUSTED.
class MemoryCapError : public c10::OutOfMemoryError {
 public:
  MemoryCapError(uint64_t wanted_bytes, uint64_t live_bytes, uint64_t cap_bytes);
  uint64_t wanted_bytes() const { return wanted_; }
  uint64_t live_bytes() const { return live_; }
  uint64_t cap_bytes() const { return cap_; }

 private:
  uint64_t wanted_, live_, cap_;
};

// Makes it LibTorch's CPU allocator for the rest of the process. Call once at start, before other threads use LibTorch; further calls do
// nothing. The functions below may be called from any thread.
void InstallCountingAllocator();

AllocatorStats Stats();

// The most bytes that kWork may hold; weights are admitted by their known size before they load, and are not capped here.
void SetCap(uint64_t bytes);

// Starts a new peak measurement of an account at what is live now. One measurement at a time: the executor's.
void ResetPeak(Account account = Account::kWork);

// How many freed bytes may be kept (default 128 MiB), and handing all of them back, for instance when the server goes idle.
void SetCacheLimit(uint64_t bytes);
void ReleaseCache();

// Charges this thread's allocations to `account` while it lives. Nests.
class ScopedAccount {
 public:
  explicit ScopedAccount(Account account);
  ~ScopedAccount();
  ScopedAccount(const ScopedAccount&) = delete;
  ScopedAccount& operator=(const ScopedAccount&) = delete;

 private:
  Account previous_;
};

}  // namespace fluoroscope::tensor
