// What turns logits into log-probabilities.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace fluoroscope::model {

// log(sum of e^x) of each line of x [lines, n], float32 -> [lines, 1]. Where the line kernels apply (line_kernels.h) in one pass for the
// largest number and one for the sum, whose parts of 256 numbers are added in float64: for 32 lines of 49,152 logits LibTorch's five
// passes took 16 ms, a fifteenth of the whole pass of 32 prompts.
at::Tensor LogSumExp(const at::Tensor& x);

// What it takes for each number of x beside its result, in bytes.
int64_t LogSumExpBytes(at::Device device);

}  // namespace fluoroscope::model
