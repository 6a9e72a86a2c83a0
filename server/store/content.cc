#include "store/content.h"

#include <cstring>
#include <string_view>

namespace fluoroscope::store {
namespace {

// Of a floating-point format: where its exponent and its sign are.
template <typename Bits>
struct Format {
  Bits exponent, sign;
};

// Looks at elements [from, to). Infinities and NaN are those with all bits of the exponent set.
template <typename Bits>
void ScanFloats(const std::byte* bytes, size_t from, size_t to, Format<Bits> format, Content& content) {
  for (size_t i = from; i < to; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    if ((bits & format.exponent) != format.exponent) continue;
    const bool minus_infinity = bits == static_cast<Bits>(format.exponent | format.sign);
    std::optional<int64_t>& first = minus_infinity ? content.minus_infinity : content.bad;
    if (!first) first = static_cast<int64_t>(i);
  }
}

void ScanBools(const std::byte* bytes, size_t from, size_t to, Content& content) {
  for (size_t i = from; i < to && !content.bad; ++i)
    if (bytes[i] > std::byte{1}) content.bad = static_cast<int64_t>(i);
}

}  // namespace

ContentScan::ContentScan(api::DType dtype, const std::vector<int64_t>& shape) : dtype_(dtype) {
  hash_.Update(api::NameOf(dtype));
  for (const int64_t size : shape) hash_.Update(std::string_view(std::to_string(size) + ";"));
}

void ContentScan::Update(std::span<const std::byte> so_far) {
  hash_.Update(so_far.subspan(hashed_));
  hashed_ = so_far.size();
  const size_t from = scanned_, to = so_far.size() / api::SizeOf(dtype_);
  scanned_ = to;
  switch (dtype_) {
    case api::DType::kF32:
      return ScanFloats<uint32_t>(so_far.data(), from, to, {0x7f800000u, 0x80000000u}, content_);
    case api::DType::kF64:
      return ScanFloats<uint64_t>(so_far.data(), from, to, {0x7ff0000000000000u, 0x8000000000000000u}, content_);
    case api::DType::kF16:
      return ScanFloats<uint16_t>(so_far.data(), from, to, {0x7c00, 0x8000}, content_);
    case api::DType::kBF16:
      return ScanFloats<uint16_t>(so_far.data(), from, to, {0x7f80, 0x8000}, content_);
    case api::DType::kBool:
      return ScanBools(so_far.data(), from, to, content_);
    case api::DType::kI32:
    case api::DType::kI64:
      return;
  }
}

Content ContentScan::Finish() {
  content_.sha256 = hash_.HexDigest();
  return std::move(content_);
}

Content ContentOf(const api::Chunk& tensor) {
  ContentScan scan(tensor.dtype, tensor.shape);
  scan.Update(tensor.bytes);
  return scan.Finish();
}

}  // namespace fluoroscope::store
