#include "model/product.h"

#include <torch/csrc/autograd/custom_function.h>

#include "model/line_gradients.h"
#include "model/short_linear.h"
#include "model/short_linear_gradient.h"
#include "model/tile_linear.h"

namespace fluoroscope::model {
namespace {

at::Tensor ByKernel(const at::Tensor& x, const at::Tensor& weight) {
  return IsTiled(x, weight) ? TileLinear(x, weight) : ShortLinear(x, weight);
}

// The kernels as a function that autograd can go back through: LibTorch's products reorder the weights at every call, forwards and back.
class ProductFunction : public torch::autograd::Function<ProductFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    context->saved_data["weight"] = weight;  // a constant: not a variable that autograd need watch
    return ByKernel(x, weight);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const at::Tensor weight = context->saved_data["weight"].toTensor(), gradient = gradients.front();
    return {IsTiled(gradient, weight) ? TileLinearGradient(gradient, weight) : ShortLinearGradient(gradient, weight), at::Tensor()};
  }
};

}  // namespace

at::Tensor Product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto with_bias = [&](at::Tensor y) { return bias.defined() ? y.add_(bias) : y; };
  if (x.scalar_type() != weight.scalar_type()) return with_bias(at::linear(x.to(weight.scalar_type()), weight).to(x.scalar_type()));
  if (!IsTiled(x, weight) && !IsShort(x, weight)) return at::linear(x, weight, bias);
  return with_bias(IsRecorded(x) ? ProductFunction::apply(x, weight) : ByKernel(x, weight));
}

}  // namespace fluoroscope::model
