// What a new query or key does to its attention, through the softmax and not only to first order: the "QK fix" of AtP* (Kramar et al.,
// arXiv:2403.00745, section 3.1.1).
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::attribution {

// One layer's attention over one prompt. Queries and keys are those that are multiplied: after any rotation.
struct Attention {
  at::Tensor q;         // [positions, heads, d_head]
  at::Tensor k;         // [positions, kv_heads, d_head]
  at::Tensor gradient;  // of the metric in the pattern, [heads, queries, keys]
  double scale = 1;     // of the scores
};

// For each query by itself: sum over keys of (pattern with the new query - pattern) * gradient. `q` as in Attention; float64, [positions,
// heads].
at::Tensor QueryEffects(const Attention& attention, const at::Tensor& q);

// For each key by itself: the same, over all queries that see it and all heads that it serves. float64, [positions, kv_heads].
at::Tensor KeyEffects(const Attention& attention, const at::Tensor& k);

}  // namespace fluoroscope::attribution
