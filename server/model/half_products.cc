#include "model/half_products.h"

#include <utility>

#include "model/line_kernels.h"
#include "tensor/counting_allocator.h"

namespace fluoroscope::model {

HalfProducts::HalfProducts(std::shared_ptr<const Model> exact) : model_(std::make_shared<Model>(*exact)) {}

uint64_t HalfProducts::Bytes(const Model& exact) {
  int64_t entries = 0;
  for (const BlockWeights& block : exact.weights.blocks)
    for (const Linear* linear : {&block.qkv, &block.attn_out, &block.mlp_in, &block.mlp_out}) entries += linear->weight.numel();
  return static_cast<uint64_t>(entries) * c10::elementSize(at::kBFloat16);
}

bool HalfProducts::Step() {
  if (next_ < model_->weights.blocks.size()) {
    const tensor::ScopedAccount account(tensor::Account::kWeights);
    BlockWeights& block = model_->weights.blocks[next_++];
    for (Linear* linear : {&block.qkv, &block.attn_out, &block.mlp_in, &block.mlp_out}) linear->weight = linear->weight.to(at::kBFloat16);
  }
  return next_ < model_->weights.blocks.size();
}

at::Tensor HalfGatedMlp(const Model& model, const BlockWeights& block, const at::Tensor& x) {
  const Linear& in = block.mlp_in;
  // Asked before anything is computed, so that nothing is computed for nothing.
  const bool has_kernels = HasLineKernels(x) && model.arch.d_mlp % 16 == 0;
  const bool applies = in.weight.scalar_type() == at::kBFloat16 && has_kernels && model.arch.gated_mlp &&
                       model.arch.activation == Activation::kSilu && !in.bias.defined() && !block.mlp_out.bias.defined();
  if (!applies) return {};
  return at::linear(GateHalfLines(at::linear(x.to(at::kBFloat16), in.weight)), block.mlp_out.weight);
}

at::Tensor HalfOr(const Linear& linear, const at::Tensor& x) {
  if (linear.weight.scalar_type() != at::kBFloat16 || linear.bias.defined()) return linear.Apply(x);
  return at::linear(x.to(at::kBFloat16), linear.weight);
}

}  // namespace fluoroscope::model
