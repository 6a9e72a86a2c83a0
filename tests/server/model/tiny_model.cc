#include "tests/server/model/tiny_model.h"

#include <cmath>

#include "model/rotary.h"

namespace fluoroscope::model {
namespace {

// Values are drawn on the CPU, so that every device gets the same ones.
at::Tensor Random(at::IntArrayRef shape, at::Device device, double scale) { return (at::randn(shape) * scale).to(device); }

NormWeights RandomNorm(const Architecture& arch, at::Device device) {
  NormWeights norm{Random({arch.d_model}, device, 0.1) + 1.0, {}};
  if (arch.norm == Norm::kLayer) norm.bias = Random({arch.d_model}, device, 0.1);
  return norm;
}

Linear RandomLinear(int64_t out, int64_t in, bool bias, at::Device device) {
  return {Random({out, in}, device, 1.0 / std::sqrt(static_cast<double>(in))), bias ? Random({out}, device, 0.1) : at::Tensor()};
}

std::shared_ptr<const Model> Fill(Architecture arch, at::Device device) {
  at::manual_seed(7);
  auto model = std::make_shared<Model>();
  arch.score_scale = 1.0 / std::sqrt(static_cast<double>(arch.d_head));
  model->device = device;
  Weights& w = model->weights;
  w.embed = Random({arch.vocabulary, arch.d_model}, device, 1.0);
  if (arch.positions == PositionScheme::kLearned) w.pos_embed = Random({arch.context, arch.d_model}, device, 0.3);
  for (int64_t l = 0; l < arch.layers; ++l) {
    BlockWeights b;
    b.ln1 = RandomNorm(arch, device);
    b.qkv = RandomLinear(arch.q_size() + 2 * arch.kv_size(), arch.d_model, arch.qkv_bias, device);
    b.attn_out = RandomLinear(arch.d_model, arch.q_size(), arch.attn_out_bias, device);
    b.ln2 = RandomNorm(arch, device);
    b.mlp_in = RandomLinear((arch.gated_mlp ? 2 : 1) * arch.d_mlp, arch.d_model, arch.mlp_bias, device);
    b.mlp_out = RandomLinear(arch.d_model, arch.d_mlp, arch.mlp_bias, device);
    w.blocks.push_back(std::move(b));
  }
  w.ln_final = RandomNorm(arch, device);
  w.unembed = RandomLinear(arch.vocabulary, arch.d_model, false, device);
  if (arch.positions == PositionScheme::kRotary) std::tie(model->rotary_cos, model->rotary_sin) = RotaryTables(arch, at::kFloat, device);
  model->arch = std::move(arch);
  return model;
}

}  // namespace

std::shared_ptr<const Model> TinyLlama(at::Device device) {
  Architecture arch;
  arch.family = "llama";
  arch.layers = 3;
  arch.d_model = 24;
  arch.heads = 4;
  arch.kv_heads = 2;
  arch.d_head = 10;
  arch.d_mlp = 40;
  arch.vocabulary = 61;
  arch.context = 64;
  arch.norm = Norm::kRms;
  arch.positions = PositionScheme::kRotary;
  arch.activation = Activation::kSilu;
  arch.gated_mlp = true;
  return Fill(arch, device);
}

std::shared_ptr<const Model> MediumLlama(int64_t d_mlp, at::ScalarType dtype) {
  Architecture arch;
  arch.family = "llama";
  arch.layers = 6;
  arch.d_model = 256;
  arch.heads = 8;
  arch.kv_heads = 4;
  arch.d_head = 32;
  arch.d_mlp = d_mlp;
  arch.vocabulary = 4096;
  arch.context = 512;
  arch.norm = Norm::kRms;
  arch.positions = PositionScheme::kRotary;
  arch.activation = Activation::kSilu;
  arch.gated_mlp = true;
  auto model = std::make_shared<Model>(*Fill(arch, at::kCPU));
  const auto cast = [&](at::Tensor& tensor) { tensor = tensor.to(dtype); };
  Weights& w = model->weights;
  for (at::Tensor* tensor : {&w.embed, &w.ln_final.weight, &w.unembed.weight}) cast(*tensor);
  for (BlockWeights& b : w.blocks)
    for (at::Tensor* tensor : {&b.ln1.weight, &b.qkv.weight, &b.attn_out.weight, &b.ln2.weight, &b.mlp_in.weight, &b.mlp_out.weight})
      cast(*tensor);
  std::tie(model->rotary_cos, model->rotary_sin) = RotaryTables(arch, dtype, at::kCPU);
  model->dtype = dtype;
  return model;
}

std::shared_ptr<const Model> MediumGpt2() {
  Architecture arch;
  arch.family = "gpt2";
  arch.layers = 6;
  arch.d_model = 256;
  arch.heads = arch.kv_heads = 8;
  arch.d_head = 32;
  arch.d_mlp = 1024;
  arch.vocabulary = 4096;
  arch.context = 512;
  arch.qkv_bias = arch.attn_out_bias = arch.mlp_bias = true;
  arch.activation = Activation::kGeluTanh;
  return Fill(arch, at::kCPU);
}

std::shared_ptr<const Model> TinyGpt2(at::Device device) {
  Architecture arch;
  arch.family = "gpt2";
  arch.layers = 2;
  arch.d_model = 20;
  arch.heads = arch.kv_heads = 5;
  arch.d_head = 4;
  arch.d_mlp = 32;
  arch.vocabulary = 53;
  arch.context = 48;
  arch.qkv_bias = arch.attn_out_bias = arch.mlp_bias = true;
  arch.activation = Activation::kGeluTanh;
  return Fill(arch, device);
}

}  // namespace fluoroscope::model
