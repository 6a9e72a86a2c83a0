// A metric as a function that can be differentiated.
#pragma once

#include <ATen/ATen.h>

#include "model/model.h"
#include "run/plan.h"

namespace fluoroscope::attribution {

// Whether the metric has a gradient.
bool IsDifferentiable(const intervention::Metric& metric);

struct MetricGradient {
  double value = 0;
  at::Tensor gradient;  // in `normalized`, [tokens, d_model]
};

// The metric of a run and its gradient. `normalized` [tokens, d_model] is what the unembedding multiplies; the metric has one position.
MetricGradient Differentiate(const model::Model& model, const run::MetricPlan& metric, const at::Tensor& normalized);

}  // namespace fluoroscope::attribution
