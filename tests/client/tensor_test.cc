#include "client/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace fluoroscope::client {
namespace {

template <typename T>
Tensor Make(v1::DType dtype, std::vector<T> values) {
  Tensor tensor;
  tensor.name = "t";
  tensor.dtype = dtype;
  tensor.size = values.size() * sizeof(T);
  tensor.data = Arena().Allocate(tensor.size);  // outlives the arena
  std::memcpy(tensor.data.get(), values.data(), tensor.size);
  return tensor;
}

TEST(TensorTest, ViewsAreTyped) {
  const Tensor floats = Make<float>(v1::DTYPE_F32, {1.5f, -2.0f});
  EXPECT_THAT(*floats.AsFloats(), testing::ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(*floats.ToFloats(), testing::ElementsAre(1.5f, -2.0f));
  EXPECT_EQ(floats.AsInt64s().status().message(), "tensor t is f32, not i64");
  const Tensor ids = Make<int64_t>(v1::DTYPE_I64, {-1, int64_t{1} << 40});
  EXPECT_THAT(*ids.AsInt64s(), testing::ElementsAre(-1, int64_t{1} << 40));
  EXPECT_EQ(ids.ToFloats().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TensorTest, Bf16WidensExactly) {
  const Tensor tensor = Make<uint16_t>(v1::DTYPE_BF16, {0x3F80, 0xC040, 0x0000, 0x7F80});
  EXPECT_THAT(*tensor.ToFloats(), testing::ElementsAre(1.0f, -3.0f, 0.0f, std::numeric_limits<float>::infinity()));
}

// Every f16 there is, against its definition.
TEST(TensorTest, F16WidensExactly) {
  std::vector<uint16_t> bits(65536);
  for (int i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> floats = *Make<uint16_t>(v1::DTYPE_F16, bits).ToFloats();
  for (int i = 0; i < 65536; ++i) {
    const int exponent = (i >> 10) & 0x1F, mantissa = i & 0x3FF;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    const double expected = (i & 0x8000) != 0 ? -magnitude : magnitude;
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(floats[i]), mantissa == 0) << i;
      EXPECT_EQ(std::isnan(floats[i]), mantissa != 0) << i;
      EXPECT_EQ(std::signbit(floats[i]), (i & 0x8000) != 0) << i;
    } else {
      EXPECT_EQ(floats[i], expected) << i;
      EXPECT_EQ(std::signbit(floats[i]), std::signbit(expected)) << i;
    }
  }
}

}  // namespace
}  // namespace fluoroscope::client
