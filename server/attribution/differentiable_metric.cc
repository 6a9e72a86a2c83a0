#include "attribution/differentiable_metric.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "intervention/column_metrics.h"
#include "model/forward.h"

namespace fluoroscope::attribution {
namespace {

using intervention::CrossEntropy;
using intervention::Probability;

// `line` [1, d_model] -> a scalar in float32.
at::Tensor Evaluate(const model::Model& model, const intervention::Metric& metric, const at::Tensor& line) {
  if (const auto weighted = intervention::WeightedTokensOf(metric); !weighted.empty()) {
    std::vector<int64_t> tokens;
    std::vector<float> weights;
    for (const intervention::WeightedToken& token : weighted) {
      tokens.push_back(token.token);
      weights.push_back(static_cast<float>(token.weight));
    }
    const at::Tensor logits = model::Unembed(model, line, model::IndexTensor(tokens, model.device)).to(at::kFloat).flatten();
    return at::dot(logits, at::tensor(weights).to(model.device));
  }
  const at::Tensor log_probabilities = at::log_softmax(model::Unembed(model, line, {}).to(at::kFloat).flatten(), 0);
  if (const auto* entropy = std::get_if<CrossEntropy>(&metric)) return -log_probabilities[entropy->targets.front()];
  const auto& probability = std::get<Probability>(metric);
  const at::Tensor logarithm = at::logsumexp(log_probabilities.index_select(0, model::IndexTensor(probability.tokens, model.device)), 0);
  return probability.logarithm ? logarithm : logarithm.exp();
}

}  // namespace

bool IsDifferentiable(const intervention::Metric& metric) {
  return !intervention::WeightedTokensOf(metric).empty() || std::holds_alternative<CrossEntropy>(metric) ||
         std::holds_alternative<Probability>(metric);
}

MetricGradient Differentiate(const model::Model& model, const run::MetricPlan& metric, const at::Tensor& normalized) {
  const c10::InferenceMode inference(false);
  const at::AutoGradMode gradients(true);
  const int64_t position = metric.positions.front();
  const at::Tensor line = normalized.narrow(0, position, 1).clone().detach().requires_grad_();
  const at::Tensor value = Evaluate(model, metric.metric, line);
  MetricGradient out;
  out.value = value.item<double>();
  out.gradient = at::zeros(normalized.sizes(), line.options().requires_grad(false));
  out.gradient.narrow(0, position, 1).copy_(torch::autograd::grad({value}, {line}).front());
  return out;
}

}  // namespace fluoroscope::attribution
