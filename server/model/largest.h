// Which tokens are likeliest: the largest of many numbers.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <utility>

namespace fluoroscope::model {

// The k largest numbers of each line of x [lines, n], float32, and where in the line they stand (int64): both [lines, k], largest first.
// Where the line kernels apply (line_kernels.h) and k is small: in one pass; of equal numbers the one in front comes first. Elsewhere, and
// of a line with a NaN, at::topk, which for the best of 49,152 takes ten times as long.
std::pair<at::Tensor, at::Tensor> Largest(const at::Tensor& x, int64_t k);

}  // namespace fluoroscope::model
