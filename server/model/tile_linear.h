// A matrix product for many rows in float32 on the processor's matrix unit (AMX), which knows bfloat16 only: each number is the sum of
// three (bfloat16_parts.h), each product that of six pairs. With 448 rows through SmolLM2's layers it took 200 ms, MKL 280 (two cores), and
// was off by a third as much: the unit adds up 32 products by itself before it rounds into the sum.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::model {

// Whether the two that follow apply: float32, contiguous weights, on a CPU with AMX, a row count for which they were faster than what else
// there is, and no gradient wanted in the weights. Whoever wants one in x calls Product (product.h).
bool IsTiled(const at::Tensor& x, const at::Tensor& weight);

// x [rows, in] @ weight [out, in]^T -> [rows, out]. The result does not depend on the number of threads, nor on the other rows, nor on how
// many they are but for whether they are more than 32. Rows whose largest magnitude is not between 2^-80 and 2^100 (nor 0) are computed
// as few rows are, by ShortLinear. A weight of 2^127 and more may give no number (NaN), whatever it is multiplied by.
at::Tensor TileLinear(const at::Tensor& x, const at::Tensor& weight);

// gradient [rows, out] @ weight [out, in] -> [rows, in], the way back. The same holds; ShortLinearGradient does the rows outside.
at::Tensor TileLinearGradient(const at::Tensor& gradient, const at::Tensor& weight);

}  // namespace fluoroscope::model
