// The way back through ShortLinear (short_linear.h): attributions of short prompts spend most of their time in these products and their
// transposes, and the library's reorder the weights at every call.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// gradient [rows, out] @ weight [out, in] -> [rows, in], what a change of each input does. Under the same conditions as ShortLinear; each
// sum runs over `out` in order, in float32, and does not depend on the number of threads, nor on the other rows.
at::Tensor ShortLinearGradient(const at::Tensor& gradient, const at::Tensor& weight);

}  // namespace fluoroscope::model
