// Small random models for tests, made in memory.
#pragma once

#include <memory>

#include "model/model.h"

namespace fluoroscope::model {

// A Llama-like model (RMSNorm, rotary, grouped-query attention, gated MLP).
std::shared_ptr<const Model> TinyLlama(at::Device device = at::kCPU);
// A GPT-2-like model (LayerNorm, learned positions, biases, plain MLP).
std::shared_ptr<const Model> TinyGpt2(at::Device device = at::kCPU);

}  // namespace fluoroscope::model
