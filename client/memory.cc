#include "client/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

namespace fluoroscope::client {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMaxPiece = 8 * kHugePage;
constexpr size_t kShared = kMaxPiece / 2;    // larger tensors get a piece of their own
constexpr size_t kSmall = size_t{64} << 10;  // smaller ones come from malloc: sharing would make them hold far more than they are
constexpr size_t kKept = size_t{512} << 20;
constexpr size_t kAlignment = 64;

size_t RoundUp(size_t size, size_t to) { return (size + to - 1) / to * to; }

struct Piece {
  void* data = nullptr;
  size_t size = 0;
};

// The pieces that nobody uses. Any thread may call.
class Pool {
 public:
  // Data is null when the system has no memory.
  Piece Take(size_t size) {
    {
      const std::lock_guard lock(mutex_);
      for (size_t i = kept_.size(); i-- > 0;) {
        if (kept_[i].size < size || kept_[i].size - size > size / 4) continue;
        const Piece piece = kept_[i];
        kept_.erase(kept_.begin() + static_cast<ptrdiff_t>(i));
        kept_bytes_ -= piece.size;
        return piece;
      }
    }
    const size_t whole = size + kHugePage;  // the kernel does not promise a huge page's alignment
    void* const start = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return {};
    auto* const bytes = static_cast<std::byte*>(start);
    const size_t before = RoundUp(reinterpret_cast<uintptr_t>(start), kHugePage) - reinterpret_cast<uintptr_t>(start);
    if (before > 0) munmap(bytes, before);
    if (before < kHugePage) munmap(bytes + before + size, kHugePage - before);
    madvise(bytes + before, size, MADV_HUGEPAGE);
    return {bytes + before, size};
  }

  void Give(Piece piece) {
    madvise(piece.data, piece.size, MADV_FREE);  // the system may take it; until it does, the pages stay
    std::vector<Piece> dropped;                  // unmapped without the lock
    {
      const std::lock_guard lock(mutex_);
      kept_.push_back(piece);
      kept_bytes_ += piece.size;
      while (kept_bytes_ > kKept) {
        kept_bytes_ -= kept_.front().size;
        dropped.push_back(kept_.front());
        kept_.erase(kept_.begin());
      }
    }
    for (const Piece& old : dropped) munmap(old.data, old.size);
  }

 private:
  std::mutex mutex_;
  std::vector<Piece> kept_;  // longest unused first; a few dozen
  size_t kept_bytes_ = 0;
};

// Never destroyed: tensors in static objects may be dropped after everything else.
Pool& ThePool() {
  static Pool* const pool = new Pool;
  return *pool;
}

std::shared_ptr<void> NewPiece(size_t size) {
  const Piece piece = ThePool().Take(RoundUp(size, kHugePage));
  if (piece.data == nullptr) return nullptr;
  return {piece.data, [piece](void*) { ThePool().Give(piece); }};
}

}  // namespace

void FreeBytes::operator()(std::byte* bytes) {
  if (piece == nullptr) std::free(bytes);
  piece.reset();
}

OwnedBytes Arena::Allocate(size_t size) {
  if (size < kSmall) return OwnedBytes(static_cast<std::byte*>(std::malloc(size == 0 ? 1 : size)));
  if (size > size_t{1} << 48) return nullptr;  // no machine has that: spares the arithmetic below
  if (size > kShared) {
    auto own = NewPiece(size);
    auto* const bytes = static_cast<std::byte*>(own.get());
    return bytes == nullptr ? nullptr : OwnedBytes(bytes, {std::move(own)});
  }
  if (piece_ == nullptr || used_ + size > piece_size_) {
    // Twice as large each time, so that a tensor of a small reply holds little.
    piece_size_ = RoundUp(std::max(size, std::min(2 * piece_size_, kMaxPiece)), kHugePage);
    piece_ = NewPiece(piece_size_);
    used_ = 0;
    if (piece_ == nullptr) return nullptr;
  }
  auto* const bytes = static_cast<std::byte*>(piece_.get()) + used_;
  used_ += RoundUp(size, kAlignment);
  return OwnedBytes(bytes, {piece_});
}

void KeepFreedBuffers() {
  static std::once_flag once;
  std::call_once(once, [] {
    // glibc's thresholds grow with the largest block freed that was a mapping of its own, up to 32 MiB. Unlike mallopt, this leaves alone
    // what the program itself has set. The block is never touched, so it costs nothing.
    void* volatile block = std::malloc(size_t{31} << 20);
    std::free(block);
  });
}

}  // namespace fluoroscope::client
