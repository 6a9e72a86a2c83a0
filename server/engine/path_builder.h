// From a path patching request to a plan that can run.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/path.h"
#include "config/config.h"
#include "engine/loaded_model.h"
#include "sweep/path_planner.h"

namespace fluoroscope::engine {

struct BuiltPaths {
  sweep::PathPlan plan;
  api::SweepHeader header;  // but for the provenance of the server itself
  std::vector<std::string> warnings;
  std::string hash;  // SHA-256 of the canonical resolved plan
};

// Resolves everything a request names, and plans it once to know its cost. Runs nothing, allocates no tensors. Any thread.
absl::StatusOr<BuiltPaths> BuildPaths(const LoadedModel& model, const api::PathRequest& request, const config::Limits& limits);

}  // namespace fluoroscope::engine
