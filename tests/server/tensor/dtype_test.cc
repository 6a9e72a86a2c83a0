#include "tensor/dtype.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

using testing::HasSubstr;

TEST(DTypeTest, EveryWireTypeGoesThereAndBackWithItsSize) {
  for (const api::DType dtype :
       {api::DType::kF32, api::DType::kF16, api::DType::kBF16, api::DType::kF64, api::DType::kI32, api::DType::kI64, api::DType::kBool}) {
    const at::ScalarType type = ToScalarType(dtype);
    EXPECT_EQ(c10::elementSize(type), api::SizeOf(dtype)) << api::NameOf(dtype);
    EXPECT_EQ(*ToApiDType(type), dtype) << api::NameOf(dtype);
  }
  const auto status = ToApiDType(at::kComplexFloat).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ComplexFloat cannot be sent; allowed are f32"));
}

TEST(DTypeTest, EveryFileTypeHasItsSizeInLibTorch) {
  for (const char* name :
       {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64"}) {
    const auto dtype = FileDTypeNamed(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_EQ(c10::elementSize(ToScalarType(*dtype)), SizeOf(*dtype)) << name;
  }
}

TEST(DTypeTest, WeightDTypes) {
  EXPECT_EQ(*WeightDTypeNamed("f32"), at::kFloat);
  EXPECT_EQ(*WeightDTypeNamed("f16"), at::kHalf);
  EXPECT_EQ(*WeightDTypeNamed("bf16"), at::kBFloat16);
  EXPECT_EQ(WeightDTypeNamed("f64").status().message(), "weights cannot be kept as \"f64\"; allowed are \"f32\", \"f16\" and \"bf16\"");
}

}  // namespace
}  // namespace fluoroscope::tensor
