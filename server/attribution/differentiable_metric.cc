#include "attribution/differentiable_metric.h"

#include <c10/core/InferenceMode.h>

#include "intervention/column_metrics.h"
#include "run/metric_gradient.h"

namespace fluoroscope::attribution {

using intervention::CrossEntropy;
using intervention::Probability;

bool IsDifferentiable(const intervention::Metric& metric) {
  return !intervention::WeightedTokensOf(metric).empty() || std::holds_alternative<CrossEntropy>(metric) ||
         std::holds_alternative<Probability>(metric);
}

MetricGradient Differentiate(const model::Model& model, const run::MetricPlan& metric, const at::Tensor& normalized) {
  const c10::InferenceMode inference(false);
  const int64_t position = metric.positions.front();
  const run::MetricGradient line = run::Differentiate(model, metric.metric, /*first=*/0, 1, normalized.narrow(0, position, 1), /*kept=*/{});
  MetricGradient out;
  out.value = line.value;
  out.gradient = at::zeros(normalized.sizes(), normalized.options().requires_grad(false));
  out.gradient.narrow(0, position, 1).copy_(line.gradient);
  return out;
}

}  // namespace fluoroscope::attribution
