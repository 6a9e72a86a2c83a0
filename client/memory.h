// Where a reply's tensors lie: large pieces of memory that many tensors share, kept for the next reply when nobody holds them any more.
#pragma once

#include <cstddef>
#include <memory>

namespace fluoroscope::client {

// Keeps the piece of memory alive that the bytes lie in.
struct FreeBytes {
  std::shared_ptr<void> piece;
  void operator()(std::byte* bytes);  // lets go of the piece now: the pointer that owns this object may live on, empty
};
using OwnedBytes = std::unique_ptr<std::byte[], FreeBytes>;

// Gives out memory from a piece until it is full, then from the next. One per reply; one thread at a time. What it gave outlives it, and
// may be dropped on any thread.
//
// The first touch of fresh memory costs more than everything else a client does with its bytes (the kernel clears each page, and in a
// virtual machine may have to ask the host for it), so pieces are made of huge pages, and up to 512 MiB of pieces that are not used any
// more stay for later replies; the system may take those back whenever it needs memory. A tensor that is kept holds its whole piece: 2 MiB
// in a small reply, up to 16 MiB in a large one, or its own size when that is larger.
class Arena {
 public:
  // Not initialised, aligned for any element; null when there is no memory.
  OwnedBytes Allocate(size_t size);

 private:
  std::shared_ptr<void> piece_;
  size_t piece_size_ = 0, used_ = 0;
};

// Tells the C library once to keep some freed memory (up to 64 MiB). gRPC frees the buffers of every message, and glibc, as it starts,
// gives them back to the system and fetches them again, page by page. Changes nothing in a program that has set glibc's thresholds itself,
// or has freed a block of 31 MiB before.
void KeepFreedBuffers();

}  // namespace fluoroscope::client
