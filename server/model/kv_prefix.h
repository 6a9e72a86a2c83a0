// Keys and values that a row finds already computed: those of the positions in front of its own lines.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace fluoroscope::model {

// Immutable while rows refer to it; whoever makes the rows keeps it alive. One entry a layer, each [positions, kv_heads, d_head], line p
// being position p; `k` as the scores read it (rotated where the model rotates).
struct KvPrefix {
  std::vector<at::Tensor> k, v;
};

}  // namespace fluoroscope::model
