// The line kernels (model/line_kernels.h) as functions that autograd can go back through: one node each instead of five to eight, which in
// the small steps of a short prompt is most of what an attribution does beside its products.
#pragma once

#include <ATen/ATen.h>

#include "model/line_kernels.h"

namespace fluoroscope::model {

// Whether an operation on x is recorded for autograd.
bool IsRecorded(const at::Tensor& x);

// NormalizeLines(x, StatisticsOf(x, centred, eps), weight, bias). Gradients reach x.
at::Tensor NormalizeLinesWithGradient(const at::Tensor& x, bool centred, double eps, const at::Tensor& weight, const at::Tensor& bias);

// RotateLines(x, angles). Gradients reach x.
at::Tensor RotateLinesWithGradient(const at::Tensor& x, const Angles& angles);

// GateLines of the two halves of both [tokens, 2 n]: gate, then up. Gradients reach `both`.
at::Tensor GateLinesWithGradient(const at::Tensor& both);

}  // namespace fluoroscope::model
