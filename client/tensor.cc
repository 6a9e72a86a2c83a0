#include "client/tensor.h"

#include <bit>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::client {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

template <typename T>
absl::StatusOr<std::span<const T>> View(const Tensor& tensor, v1::DType dtype) {
  if (tensor.dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " is ", NameOf(tensor.dtype), ", not ", NameOf(dtype)));
  }
  return std::span<const T>(reinterpret_cast<const T*>(tensor.data.get()), tensor.size / sizeof(T));
}

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

float FromBf16(uint16_t bits) { return FromBits(uint32_t{bits} << 16); }

float FromF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, exponent = (bits >> 10) & 0x1F, mantissa = bits & 0x3FF;
  if (exponent == 0x1F) return FromBits(sign | 0x7F800000 | mantissa << 13);                                    // infinity, NaN
  if (exponent == 0) return FromBits(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));  // zero, subnormal
  return FromBits(sign | (exponent + 112) << 23 | mantissa << 13);
}

template <typename Convert>
std::vector<float> Widen(const Tensor& tensor, Convert convert) {
  std::vector<float> floats(tensor.size / sizeof(uint16_t));
  const auto* bits = reinterpret_cast<const uint16_t*>(tensor.data.get());
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = convert(bits[i]);
  return floats;
}

}  // namespace

size_t SizeOf(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F64:
    case v1::DTYPE_I64:
      return 8;
    case v1::DTYPE_F32:
    case v1::DTYPE_I32:
      return 4;
    case v1::DTYPE_F16:
    case v1::DTYPE_BF16:
      return 2;
    case v1::DTYPE_BOOL:
      return 1;
    default:
      return 0;
  }
}

std::string NameOf(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F64:
      return "f64";
    case v1::DTYPE_I64:
      return "i64";
    case v1::DTYPE_F32:
      return "f32";
    case v1::DTYPE_I32:
      return "i32";
    case v1::DTYPE_F16:
      return "f16";
    case v1::DTYPE_BF16:
      return "bf16";
    case v1::DTYPE_BOOL:
      return "bool";
    default:
      return absl::StrCat("dtype ", static_cast<int>(dtype));
  }
}

absl::StatusOr<std::span<const float>> Tensor::AsFloats() const { return View<float>(*this, v1::DTYPE_F32); }
absl::StatusOr<std::span<const double>> Tensor::AsDoubles() const { return View<double>(*this, v1::DTYPE_F64); }
absl::StatusOr<std::span<const int32_t>> Tensor::AsInt32s() const { return View<int32_t>(*this, v1::DTYPE_I32); }
absl::StatusOr<std::span<const int64_t>> Tensor::AsInt64s() const { return View<int64_t>(*this, v1::DTYPE_I64); }

absl::StatusOr<std::vector<float>> Tensor::ToFloats() const {
  if (dtype == v1::DTYPE_BF16) return Widen(*this, FromBf16);
  if (dtype == v1::DTYPE_F16) return Widen(*this, FromF16);
  auto floats = AsFloats();
  if (!floats.ok())
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is ", NameOf(dtype), ", which does not fit float exactly"));
  return std::vector<float>(floats->begin(), floats->end());
}

}  // namespace fluoroscope::client
