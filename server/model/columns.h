// Columns of a product's output, as views. LibTorch's narrow and unflatten, ten times a layer, were 4 % of a token's time in a
// profile; where autograd does not watch, nothing of that is needed.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// Columns [start, start + size) of x [tokens, n].
at::Tensor Columns(const at::Tensor& x, int64_t start, int64_t size);

// Columns [start, start + heads * d_head) of x [tokens, n], as [tokens, heads, d_head].
at::Tensor HeadColumns(const at::Tensor& x, int64_t start, int64_t heads, int64_t d_head);

// z [tokens, heads, d_head] as lines [tokens, heads * d_head]; a copy where its heads do not lie side by side.
at::Tensor JoinHeads(const at::Tensor& z);

}  // namespace fluoroscope::model
