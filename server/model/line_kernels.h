// What happens between the matrix products, line by line, in one pass over memory each. LibTorch takes five to eight passes for the same,
// and in a batch of a thousand tokens that is a quarter of a layer's time.
#pragma once

#include <ATen/ATen.h>

#include "model/rotary.h"

namespace fluoroscope::model {

// Whether the kernels apply to a tensor: float32, last axis contiguous, on a CPU with AVX-512. Elsewhere their callers use LibTorch's
// operations. The kernels know nothing of autograd: where a gradient is wanted, see line_gradients.h.
bool HasLineKernels(const at::Tensor& x);
// The same for whole tensors of a model on this device.
bool HasLineKernels(at::Device device, at::ScalarType dtype);

// Statistics of each line of x [tokens, d]: `scale` [tokens, 1] = sqrt(mean((x - mean)^2) + eps) and `mean` [tokens, 1]; without `centred`
// the mean is taken for 0 and undefined.
struct LineStatistics {
  at::Tensor mean, scale;
};
LineStatistics StatisticsOf(const at::Tensor& x, bool centred, double eps);

// ((x - mean) / scale) * weight + bias, rounded after each operation, as if each were done by itself: so that whoever looks at the values
// between changes nothing.
at::Tensor NormalizeLines(const at::Tensor& x, const LineStatistics& statistics, const at::Tensor& weight, const at::Tensor& bias);

// Rotate (rotary.h) of x [tokens, heads, d_head], whose heads lie side by side in each line.
at::Tensor RotateLines(const at::Tensor& x, const Angles& angles);

// silu(gate) * up; both [tokens, n].
at::Tensor GateLines(const at::Tensor& gate, const at::Tensor& up);

// out + x, both [tokens, n], which takes the place of out. Whether it applies: as above, out contiguous, and autograd watches neither.
bool CanAddLines(const at::Tensor& out, const at::Tensor& x);
at::Tensor AddLines(at::Tensor out, const at::Tensor& x);

// Whether the two that follow apply: bfloat16, contiguous [tokens, n] with n a multiple of 32, on a CPU with AVX-512.
bool HasHalfLineKernels(const at::Tensor& x);

// The same of bfloat16 numbers, gate first, calculated in float32 and rounded: [tokens, 2 n] -> [tokens, n].
at::Tensor GateHalfLines(const at::Tensor& both);

// x + y, x and the sum in float32, y in bfloat16; all [tokens, n].
at::Tensor AddHalfLines(const at::Tensor& x, const at::Tensor& y);

}  // namespace fluoroscope::model
