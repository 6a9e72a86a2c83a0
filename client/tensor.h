// A tensor that a server sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/memory.h"
#include "fluoroscope/v1/tensor.pb.h"

namespace fluoroscope::client {

// Bytes per element; 0 for a dtype that this client does not know.
size_t SizeOf(v1::DType dtype);

// "f32", "bf16", ...
std::string NameOf(v1::DType dtype);

// Owns its bytes (see Arena for what a kept tensor costs): contiguous, little-endian, row-major, aligned for any element. Moves, does not
// copy.
struct Tensor {
  std::string name;  // hook name ("blocks.5.hook_resid_pre"), "logits", "top.tokens", "top.logits" or "top.logprobs"
  std::string part;  // "", or "values" and "indices" for a top-k capture
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  std::vector<int64_t> shape;  // outermost axis first
  uint32_t row = 0;            // index of the prompt in the request
  std::optional<uint32_t> layer;
  std::vector<int32_t> positions;  // absolute positions along the tensor's position axis
  std::vector<int64_t> token_ids;  // the row's tokens at `positions`
  std::vector<int32_t> heads;      // only when the capture chose some
  uint32_t capture = 0;            // index of the capture in the request; meaningless for logits
  std::string gradient_of;         // the metric whose gradient in the value this is; empty: it is the value

  std::span<const std::byte> bytes() const { return {data.get(), size}; }

  // The elements as they are. INVALID_ARGUMENT, naming the dtype, unless it is f32 / f64 / i32 / i64.
  absl::StatusOr<std::span<const float>> AsFloats() const;
  absl::StatusOr<std::span<const double>> AsDoubles() const;
  absl::StatusOr<std::span<const int32_t>> AsInt32s() const;
  absl::StatusOr<std::span<const int64_t>> AsInt64s() const;

  // A copy in float: f32, f16 and bf16, exactly. INVALID_ARGUMENT for other dtypes.
  absl::StatusOr<std::vector<float>> ToFloats() const;

  OwnedBytes data;
  size_t size = 0;
};

}  // namespace fluoroscope::client
