// Loading a model, and what replies say about where their numbers came from.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/loaded_model.h"
#include "residency/load_progress.h"
#include "residency/weight_budget.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// What a load needs besides the model's own configuration.
struct LoadOptions {
  std::string device_name;  // the configuration's
  at::Device device = at::kCPU;
  residency::LoadProgress* progress = nullptr;
  std::shared_ptr<residency::WeightBudget> budget;  // of the twin that fast sweeps make
};

// Reads weights and tokenizer (which may be missing), and sets the model's gauges. The weights keep `charge` as long as anybody holds them.
// Takes seconds, on one thread that ComputeAlone (tensor/compute_threads.h). Errors name the model.
absl::StatusOr<std::shared_ptr<LoadedModel>> LoadModel(const config::ModelConfig& config, const LoadOptions& options,
                                                       std::shared_ptr<const residency::WeightBudget::Charge> charge,
                                                       obs::Metrics& metrics);

// `threads`: of LibTorch. The fields of a single run stay empty.
api::Provenance ProvenanceOf(const LoadedModel& model, uint32_t threads);

}  // namespace fluoroscope::engine
