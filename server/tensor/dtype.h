// One element type in three vocabularies: LibTorch's, the wire's (api::DType) and the safetensors format's.
#pragma once

#include <string_view>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "api/tensor.h"
#include "tensor/safetensors_header.h"

namespace fluoroscope::tensor {

at::ScalarType ToScalarType(api::DType dtype);

// INVALID_ARGUMENT for types that the wire does not have (complex, quantised, 8- and 16-bit integers).
absl::StatusOr<api::DType> ToApiDType(at::ScalarType type);

at::ScalarType ToScalarType(FileDType dtype);

// The dtypes weights may be kept in: "f32", "f16", "bf16"; INVALID_ARGUMENT for others, with these three.
absl::StatusOr<at::ScalarType> WeightDTypeNamed(std::string_view name);

}  // namespace fluoroscope::tensor
