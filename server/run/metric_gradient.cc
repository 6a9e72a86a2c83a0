#include "run/metric_gradient.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numbers>

#include "intervention/column_metrics.h"
#include "model/forward.h"

namespace fluoroscope::run {
namespace {

using intervention::CrossEntropy;
using intervention::Probability;
using intervention::ToReference;

// The definitions of vocabulary_metrics.cc again, in operations that can be differentiated. `own` and `reference` [lines, vocabulary].
at::Tensor Distance(ToReference::Measure measure, const at::Tensor& logits, const at::Tensor& reference) {
  if (measure == ToReference::Measure::kL2) return at::norm(logits - reference, 2, {1}).sum();
  const at::Tensor own = at::log_softmax(logits, 1);
  if (measure == ToReference::Measure::kKl) return ((reference - own) * reference.exp()).sum();
  const at::Tensor middle = at::logaddexp(own, reference) - std::numbers::ln2;
  return (((own - middle) * own.exp()).sum() + ((reference - middle) * reference.exp()).sum()) / 2;
}

// `lines` [count, d_model] -> a scalar in float32.
at::Tensor Evaluate(const model::Model& model, const intervention::Metric& metric, int64_t first, const at::Tensor& lines,
                    const std::vector<at::Tensor>& kept) {
  const int64_t count = lines.size(0);
  if (const auto weighted = intervention::WeightedTokensOf(metric); !weighted.empty()) {
    std::vector<int64_t> tokens;
    std::vector<float> weights;
    for (const intervention::WeightedToken& token : weighted) {
      tokens.push_back(token.token);
      weights.push_back(static_cast<float>(token.weight));
    }
    const at::Tensor logits = model::Unembed(model, lines, model::IndexTensor(tokens, model.device)).to(at::kFloat);
    return at::mv(logits, at::tensor(weights).to(model.device)).sum();
  }
  const at::Tensor logits = model::Unembed(model, lines, {}).to(at::kFloat);
  if (const auto* to = std::get_if<ToReference>(&metric))  // a copy: what was made without gradients cannot be saved for a backward pass
    return Distance(to->measure, logits, kept[to->reference].narrow(0, first, count).clone());
  const at::Tensor log_probabilities = at::log_softmax(logits, 1);
  if (const auto* entropy = std::get_if<CrossEntropy>(&metric)) {
    const std::vector<int64_t> targets(entropy->targets.begin() + first, entropy->targets.begin() + first + count);
    return -log_probabilities.gather(1, model::IndexTensor(targets, model.device).unsqueeze(1)).sum();
  }
  const auto& probability = std::get<Probability>(metric);
  const at::Tensor logarithms = at::logsumexp(log_probabilities.index_select(1, model::IndexTensor(probability.tokens, model.device)), 1);
  return (probability.logarithm ? logarithms : logarithms.exp()).sum();
}

}  // namespace

bool HasGradient(const intervention::Metric& metric) { return !std::holds_alternative<intervention::Rank>(metric); }

MetricGradient Differentiate(const model::Model& model, const intervention::Metric& metric, int64_t first, int64_t count,
                             const at::Tensor& lines, const std::vector<at::Tensor>& kept) {
  const c10::InferenceMode inference(false);
  const at::AutoGradMode gradients(true);
  TORCH_CHECK(lines.size(0) == count);
  const at::Tensor own = lines.clone().detach().requires_grad_();
  const at::Tensor value = Evaluate(model, metric, first, own, kept);
  return {value.item<double>(), torch::autograd::grad({value}, {own}).front()};
}

int64_t DifferentiateBytes(const intervention::Metric& metric, int64_t lines, const model::Architecture& arch, int64_t element_size) {
  const auto* to = std::get_if<ToReference>(&metric);
  if (const auto weighted = intervention::WeightedTokensOf(metric); !weighted.empty())
    return static_cast<int64_t>(weighted.size()) * (arch.d_model + 4 * lines) * element_size;
  // Whole lines of logits at once: the logits, what is made of them for the metric and kept for the way back, and gradients.
  const int64_t copies = to == nullptr                              ? 3
                         : to->measure == ToReference::Measure::kL2 ? 5
                         : to->measure == ToReference::Measure::kKl ? 6
                                                                    : 10;
  // In the model's dtype too, where that is narrower: while the metric's own copies are all there only where it compares.
  const int64_t narrow = element_size == 4 || to == nullptr ? 0 : 2 * element_size;
  return lines * arch.vocabulary * (copies * static_cast<int64_t>(sizeof(float)) + narrow);
}

}  // namespace fluoroscope::run
