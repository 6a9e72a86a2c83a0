#include "store/content.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace fluoroscope::store {
namespace {

template <typename T>
api::Chunk ChunkOf(api::DType dtype, const std::vector<T>& values) {
  auto owner = std::make_shared<const std::vector<T>>(values);
  return {dtype, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(*owner)), owner};
}

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(ContentTest, NumbersAreFinite) {
  const Content content = ContentOf(ChunkOf<float>(api::DType::kF32, {0, -0.f, 1e38f, -1e38f, 1e-45f}));
  EXPECT_FALSE(content.bad);
  EXPECT_FALSE(content.minus_infinity);
}

TEST(ContentTest, FindsTheFirstOfEachKind) {
  const Content content = ContentOf(ChunkOf<float>(api::DType::kF32, {1, -kInf, kInf, std::nanf(""), -kInf}));
  EXPECT_EQ(content.bad, 2);
  EXPECT_EQ(content.minus_infinity, 1);
  EXPECT_EQ(ContentOf(ChunkOf<double>(api::DType::kF64, {1, 2, std::nan("")})).bad, 2);
  EXPECT_EQ(ContentOf(ChunkOf<double>(api::DType::kF64, {-std::numeric_limits<double>::infinity()})).minus_infinity, 0);
}

TEST(ContentTest, HalvesByTheirBits) {
  EXPECT_FALSE(ContentOf(ChunkOf<uint16_t>(api::DType::kF16, {0x7bff, 0xfbff, 0x0001})).bad);
  EXPECT_EQ(ContentOf(ChunkOf<uint16_t>(api::DType::kF16, {0x3c00, 0x7c00})).bad, 1);              // +inf
  EXPECT_EQ(ContentOf(ChunkOf<uint16_t>(api::DType::kF16, {0xfc00})).minus_infinity, 0);           // -inf
  EXPECT_EQ(ContentOf(ChunkOf<uint16_t>(api::DType::kF16, {0xfc01})).bad, 0);                      // NaN
  EXPECT_FALSE(ContentOf(ChunkOf<uint16_t>(api::DType::kBF16, {0x7f7f, 0x7c00})).bad);             // a large number of bf16
  EXPECT_EQ(ContentOf(ChunkOf<uint16_t>(api::DType::kBF16, {0x3f80, 0x3f80, 0x7f80})).bad, 2);     // +inf
  EXPECT_EQ(ContentOf(ChunkOf<uint16_t>(api::DType::kBF16, {0xff80, 0x7fc0})).minus_infinity, 0);  // -inf, then NaN
}

TEST(ContentTest, IntegersAreNumbersAndBoolsAreZeroOrOne) {
  EXPECT_FALSE(ContentOf(ChunkOf<int32_t>(api::DType::kI32, {-1, 0x7f800000})).bad);
  EXPECT_FALSE(ContentOf(ChunkOf<uint8_t>(api::DType::kBool, {0, 1})).bad);
  EXPECT_EQ(ContentOf(ChunkOf<uint8_t>(api::DType::kBool, {0, 1, 2})).bad, 2);
}

TEST(ContentTest, PiecesMakeTheSameAsTheWhole) {
  const api::Chunk whole = ChunkOf<float>(api::DType::kF32, {1, 2, kInf, 4});
  ContentScan scan(whole.dtype, whole.shape);
  for (const size_t end : {size_t{0}, size_t{3}, size_t{9}, size_t{10}, whole.bytes.size()}) scan.Update(whole.bytes.first(end));
  const Content content = scan.Finish(), expected = ContentOf(whole);
  EXPECT_EQ(content.bad, 2);
  EXPECT_EQ(content.sha256, expected.sha256);
  EXPECT_EQ(content.sha256.size(), 64u);
}

TEST(ContentTest, DTypeAndShapeAreContentToo) {
  api::Chunk flat = ChunkOf<float>(api::DType::kF32, {1, 2, 3, 4}), square = flat, whole = flat;
  square.shape = {2, 2};
  whole.dtype = api::DType::kI32;
  EXPECT_NE(ContentOf(flat).sha256, ContentOf(square).sha256);
  EXPECT_NE(ContentOf(flat).sha256, ContentOf(whole).sha256);
  EXPECT_EQ(ContentOf(flat).sha256, ContentOf(ChunkOf<float>(api::DType::kF32, {1, 2, 3, 4})).sha256);
}

}  // namespace
}  // namespace fluoroscope::store
