// What turns logits into log-probabilities.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace fluoroscope::model {

// log(sum of e^x) of each line of x [lines, n], float32 -> [lines, 1]. Where the line kernels apply (line_kernels.h) in one pass for the
// largest number and one for the sum, whose parts of 256 numbers are added in float64: LibTorch's five passes
// take 1.0 ms for 32 lines of 49,152 logits on two idle cores, and as much memory as the logits; that memory is what this saves most.
at::Tensor LogSumExp(const at::Tensor& x);

// What it takes for each number of x beside its result, in bytes.
int64_t LogSumExpBytes(at::Device device);

}  // namespace fluoroscope::model
