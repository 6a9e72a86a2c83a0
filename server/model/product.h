// Rows times a matrix of weights: which kernel does it.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// x [rows, in] @ weight [out, in]^T + bias [out], where there is one -> [rows, out] in x's type. Where x is recorded for autograd,
// gradients reach it, and the weights are constants. Few rows: short_linear.h; more: tile_linear.h; where neither applies, LibTorch. Of
// what type the product itself is: half_products.h.
at::Tensor Product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace fluoroscope::model
