// Tensors at the boundary of the server: plain bytes with a dtype and a shape, no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fluoroscope::api {

enum class DType { kF32, kF16, kBF16, kF64, kI32, kI64, kBool };

// Bytes per element.
size_t SizeOf(DType dtype);

// "f32", "bf16", ...; as in provenance.
std::string_view NameOf(DType dtype);

// A contiguous little-endian row-major tensor whose bytes somebody else keeps alive: `bytes` stays valid as long as `owner` does.
// Copying a Chunk copies no data. Safe to hand from thread to thread.
struct Chunk {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

}  // namespace fluoroscope::api
