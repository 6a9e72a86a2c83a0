// Attention for rows with few queries, as short prompts and the cells of a sweep have. Thousands of such rows lie in one batch, each with
// its own number of queries and a prefix that many share; the library's kernels would want them padded, grouped and copied together.
#pragma once

#include <ATen/ATen.h>

#include <span>

#include "model/packed_rows.h"

namespace fluoroscope::model {

// A row with more queries is better off with the library's kernel, which works in blocks.
inline constexpr int64_t kMaxShortQueries = 64;

// Whether ShortAttention applies: float32 on a CPU with AVX-512, and no gradient wanted.
bool CanAttendShort(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// softmax(q k^T * scale, causal) v of each row, which sees its prefix of this layer and its own keys. q [lines, heads, d_head]; k, v
// [lines, kv_heads, d_head], the last two axes contiguous. `queries` and `keys` are the same rows; their first lines are line 0 of q and k.
// A row's numbers do not depend on the other rows or on the number of threads.
at::Tensor ShortAttention(std::span<const RowSpan> queries, std::span<const RowSpan> keys, int64_t layer, const at::Tensor& q,
                          const at::Tensor& k, const at::Tensor& v, double scale);

}  // namespace fluoroscope::model
