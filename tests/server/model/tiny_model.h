// Small random models for tests, made in memory.
#pragma once

#include <memory>

#include "model/model.h"

namespace fluoroscope::model {

// A Llama-like model (RMSNorm, rotary, grouped-query attention, gated MLP).
std::shared_ptr<const Model> TinyLlama(at::Device device = at::kCPU);
// The same with matrices of some size, for tests of memory: 6 layers of width 256, 4,096 tokens.
std::shared_ptr<const Model> MediumLlama(int64_t d_mlp = 768, at::ScalarType dtype = at::kFloat);
std::shared_ptr<const Model> MediumGpt2();
// A GPT-2-like model (LayerNorm, learned positions, biases, plain MLP).
std::shared_ptr<const Model> TinyGpt2(at::Device device = at::kCPU);

}  // namespace fluoroscope::model
