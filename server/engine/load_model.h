// Loading a model, and what replies say about where their numbers came from.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/loaded_model.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// Reads weights and tokenizer (which may be missing), and reports the loading to `metrics`. Computes: executor's thread only. `device_name`
// is the configuration's. Errors name the model.
absl::StatusOr<std::shared_ptr<LoadedModel>> LoadModel(const config::ModelConfig& config, const std::string& device_name, at::Device device,
                                                       obs::Metrics& metrics);

// `threads`: of LibTorch. The fields of a single run stay empty.
api::Provenance ProvenanceOf(const LoadedModel& model, uint32_t threads);

}  // namespace fluoroscope::engine
