// A matrix product for few rows, as short prompts and decoding have. Up to 40 rows general libraries are far from both limits of the
// machine: they reorder the weights at every call. Here the weights are read once, as they lie in memory, and the few inputs stay in the
// nearest cache: 14 rows through SmolLM2's 30 layers took 22 ms, MKL 47 ms, reading the weights alone 14 ms (two cores, AVX-512).
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// Whether ShortLinear applies: float32, contiguous, on a CPU with AVX-512, a row count for which it was faster than the library, and no
// gradient wanted in the weights. Whoever wants one in x calls Product (product.h).
bool IsShort(const at::Tensor& x, const at::Tensor& weight);

// x [rows, in] @ weight [out, in]^T -> [rows, out]. Sums run in 16 lanes that are added at the end; the result does not depend on the
// number of threads, nor on the other rows.
at::Tensor ShortLinear(const at::Tensor& x, const at::Tensor& weight);

}  // namespace fluoroscope::model
