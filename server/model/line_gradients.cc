#include "model/line_gradients.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/norm.h"

namespace fluoroscope::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// y = n * weight + bias with n = (x - mean) / scale.
class NormalizeFunction : public torch::autograd::Function<NormalizeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, bool centred, double eps, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    const LineStatistics statistics = StatisticsOf(x, centred, eps);
    context->save_for_backward({x});
    context->saved_data["scale"] = statistics.scale;
    context->saved_data["weight"] = weight;
    if (centred) context->saved_data["mean"] = statistics.mean;
    return NormalizeLines(x, statistics, weight, bias.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor x = context->get_saved_variables().front();
    const at::Tensor scale = context->saved_data["scale"].toTensor();
    const bool centred = context->saved_data.count("mean") > 0;
    const at::Tensor normalized = (centred ? x - context->saved_data["mean"].toTensor() : x) / scale;
    return {NormGradient(gradients.front() * context->saved_data["weight"].toTensor(), normalized, scale, centred), {}, {}, {}, {}};
  }
};

// The gradient turns back by the same angle.
class RotateFunction : public torch::autograd::Function<RotateFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    context->saved_data["cos"] = cos;
    context->saved_data["sin"] = sin;
    return RotateLines(x, {cos, sin});
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Angles back{context->saved_data["cos"].toTensor(), -context->saved_data["sin"].toTensor()};
    return {RotateLines(gradients.front().contiguous(), back), {}, {}};
  }
};

class GateFunction : public torch::autograd::Function<GateFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& both) {
    context->save_for_backward({both});
    const int64_t n = both.size(1) / 2;
    return GateLines(both.narrow(1, 0, n), both.narrow(1, n, n));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor both = context->get_saved_variables().front(), &gradient = gradients.front();
    const int64_t n = both.size(1) / 2;
    const at::Tensor gate = both.narrow(1, 0, n), up = both.narrow(1, n, n);
    return {at::cat({at::silu_backward(gradient * up, gate), at::silu(gate).mul_(gradient)}, 1)};
  }
};

}  // namespace

bool IsRecorded(const at::Tensor& x) { return c10::GradMode::is_enabled() && x.requires_grad(); }

at::Tensor NormalizeLinesWithGradient(const at::Tensor& x, bool centred, double eps, const at::Tensor& weight, const at::Tensor& bias) {
  return NormalizeFunction::apply(x, centred, eps, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
}

at::Tensor RotateLinesWithGradient(const at::Tensor& x, const Angles& angles) { return RotateFunction::apply(x, angles.cos, angles.sin); }

at::Tensor GateLinesWithGradient(const at::Tensor& both) { return GateFunction::apply(both); }

}  // namespace fluoroscope::model
