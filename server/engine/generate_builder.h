// From a generation request to a plan that can run.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "api/generate.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "generate/plan.h"
#include "run/cost.h"

namespace fluoroscope::engine {

struct BuiltGeneration {
  generate::GeneratePlan plan;
  run::Cost cost;
  api::ForwardHeader header;  // the rows; provenance is the caller's to fill in
  std::string hash;
  std::string attention;
};

// Resolves everything a request names. Runs nothing, allocates no tensors but given ones. Any thread. The plan shares the model's
// tokenizer.
absl::StatusOr<BuiltGeneration> BuildGeneration(const std::shared_ptr<const LoadedModel>& model, const api::GenerateRequest& request,
                                                const config::Limits& limits, RequestHandles handles = {});

}  // namespace fluoroscope::engine
