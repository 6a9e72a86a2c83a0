// A whole file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace fluoroscope::tensor {

// Owns the mapping; move-only. The bytes may be read from any thread, and must never be written (the pages are read-only: SIGSEGV).
// The size is taken once, at opening. If another process then truncates the file, touching a page behind its new end raises SIGBUS and
// ends the process, as with every mapping: replace model files by renaming a new one over them, never by writing into them.
class MappedFile {
 public:
  // NOT_FOUND or another code by errno; INVALID_ARGUMENT when `path` is not a regular file. An empty file maps to no bytes.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Asks the kernel to read [begin, end) ahead. A hint.
  void Prefetch(uint64_t begin, uint64_t end) const;

  // Takes the pages out of this process's resident memory; they come back from the page cache when touched again.
  void DropPages() const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size) : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fluoroscope::tensor
