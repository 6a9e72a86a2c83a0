// Rotary position embedding (Su et al., RoFormer, 2021), in the half-split layout of Hugging Face's Llama.
#pragma once

#include <ATen/ATen.h>

#include <utility>

#include "model/architecture.h"

namespace fluoroscope::model {

// cos and sin of position * frequency, [context, d_head / 2] each. Computed in float32 with the operations transformers uses, so that
// angles at far positions round the same way, then cast to `dtype`.
std::pair<at::Tensor, at::Tensor> RotaryTables(const Architecture& arch, at::ScalarType dtype, at::Device device);

// The angles of some tokens: cos and sin, [tokens, 1, d_head / 2] each.
struct Angles {
  at::Tensor cos, sin;
};

// Rotates x [tokens, heads, d_head]: the pair (x[i], x[i + d_head/2]) turns by its token's angle i.
at::Tensor Rotate(const at::Tensor& x, const Angles& angles);

}  // namespace fluoroscope::model
