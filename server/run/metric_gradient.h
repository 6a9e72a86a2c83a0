// A metric as a function that can be differentiated.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "model/model.h"
#include "run/plan.h"

namespace fluoroscope::run {

// Whether the metric has a gradient: all but ranks.
bool HasGradient(const intervention::Metric& metric);

struct MetricGradient {
  double value = 0;     // the sum of the metric's values
  at::Tensor gradient;  // of that sum in `lines`, of their shape and dtype
};

// The metric at some of its positions, `count` of them from number `first` on: a bounded piece. Not for read-outs, which have no logits.
// `lines` [count, d_model] is what the unembedding multiplies at these positions. `kept` has what the metric compares with, which is
// constant.
MetricGradient Differentiate(const model::Model& model, const intervention::Metric& metric, int64_t first, int64_t count,
                             const at::Tensor& lines, const std::vector<at::Tensor>& kept);

// Lines that are differentiated in one step.
inline constexpr int64_t kGradientLines = 32;

// Upper bound of the bytes that one such step holds for `lines` of them.
int64_t DifferentiateBytes(const intervention::Metric& metric, int64_t lines, const model::Architecture& arch, int64_t element_size);

}  // namespace fluoroscope::run
