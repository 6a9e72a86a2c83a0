#include "tensor/dtype.h"

#include "absl/strings/str_cat.h"

namespace fluoroscope::tensor {

at::ScalarType ToScalarType(api::DType dtype) {
  switch (dtype) {
    case api::DType::kF32:
      return at::kFloat;
    case api::DType::kF16:
      return at::kHalf;
    case api::DType::kBF16:
      return at::kBFloat16;
    case api::DType::kF64:
      return at::kDouble;
    case api::DType::kI32:
      return at::kInt;
    case api::DType::kI64:
      return at::kLong;
    case api::DType::kBool:
      return at::kBool;
  }
  return at::ScalarType::Undefined;
}

absl::StatusOr<api::DType> ToApiDType(at::ScalarType type) {
  for (const api::DType dtype :
       {api::DType::kF32, api::DType::kF16, api::DType::kBF16, api::DType::kF64, api::DType::kI32, api::DType::kI64, api::DType::kBool}) {
    if (ToScalarType(dtype) == type) return dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a tensor of ", at::toString(type), " cannot be sent; allowed are f32, f16, bf16, f64, i32, i64 and bool"));
}

at::ScalarType ToScalarType(FileDType dtype) {
  switch (dtype) {
    case FileDType::kBool:
      return at::kBool;
    case FileDType::kU8:
      return at::kByte;
    case FileDType::kI8:
      return at::kChar;
    case FileDType::kF8E5M2:
      return at::kFloat8_e5m2;
    case FileDType::kF8E4M3:
      return at::kFloat8_e4m3fn;
    case FileDType::kI16:
      return at::kShort;
    case FileDType::kU16:
      return at::kUInt16;
    case FileDType::kF16:
      return at::kHalf;
    case FileDType::kBF16:
      return at::kBFloat16;
    case FileDType::kI32:
      return at::kInt;
    case FileDType::kU32:
      return at::kUInt32;
    case FileDType::kF32:
      return at::kFloat;
    case FileDType::kI64:
      return at::kLong;
    case FileDType::kU64:
      return at::kUInt64;
    case FileDType::kF64:
      return at::kDouble;
  }
  return at::ScalarType::Undefined;
}

absl::StatusOr<at::ScalarType> WeightDTypeNamed(std::string_view name) {
  for (const api::DType dtype : {api::DType::kF32, api::DType::kF16, api::DType::kBF16}) {
    if (name == api::NameOf(dtype)) return ToScalarType(dtype);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("weights cannot be kept as \"", std::string(name), "\"; allowed are \"f32\", \"f16\" and \"bf16\""));
}

}  // namespace fluoroscope::tensor
