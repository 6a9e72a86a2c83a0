// A matrix product for the lines of a small batch. Between a dozen and a few hundred lines general libraries are well below the machine's
// peak, because they reorder a whole weight matrix in memory at every call. Here a panel of a few of its rows is turned round in the
// nearest caches, used for all lines while it is there, and forgotten. SmolLM2's layers, two cores: 64 lines in 45 ms, MKL 66; 448 lines in
// 260 ms, MKL 289, the peak alone 245.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// Whether PanelLinear applies: float32 lines and contiguous weights, on a CPU with AVX-512, more lines than short_linear.h is for and at
// most 512, and no gradient wanted.
bool IsForPanels(const at::Tensor& x, const at::Tensor& weight);

// x [lines, in] @ weight [out, in]^T -> [lines, out]. Sums run along `in`, one number after the other; the result does not depend on the number of threads, nor on the other lines.
at::Tensor PanelLinear(const at::Tensor& x, const at::Tensor& weight);

}  // namespace fluoroscope::model
