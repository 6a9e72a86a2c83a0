// The header of a safetensors file: names, dtypes, shapes and byte ranges, checked so that nothing later can read outside the file.
// Free of LibTorch, so that it fuzzes and tests without it. Format: https://github.com/huggingface/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fluoroscope::tensor {

// The element types of the format that have whole bytes.
enum class FileDType { kBool, kU8, kI8, kF8E5M2, kF8E4M3, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kI64, kU64, kF64 };

size_t SizeOf(FileDType dtype);            // bytes per element
std::string_view NameOf(FileDType dtype);  // as the format spells it: "BF16"
std::optional<FileDType> FileDTypeNamed(std::string_view name);

struct TensorEntry {
  FileDType dtype = FileDType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // first byte, counted from the start of the file
  uint64_t end = 0;    // one past the last; end - begin == product of shape * SizeOf(dtype)
};

struct Header {
  std::map<std::string, TensorEntry> tensors;
  std::map<std::string, std::string> metadata;  // "__metadata__"
  uint64_t data_begin = 0;                      // where the tensors' bytes begin
};

inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as in the reference implementation

// `prefix` is the beginning of a file of `file_size` bytes, at least up to the end of the header; giving the whole file is fine.
// On success every entry lies inside the file and the entries cover everything behind the header once, without overlap or hole. Else
// INVALID_ARGUMENT saying what is wrong, with the tensor's name where it is about one.
absl::StatusOr<Header> ParseHeader(std::span<const std::byte> prefix, uint64_t file_size);

}  // namespace fluoroscope::tensor
