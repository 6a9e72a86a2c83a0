// From a sweep request to a plan that can run.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/sweep.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "sweep/planner.h"

namespace fluoroscope::engine {

struct BuiltSweep {
  sweep::SweepPlan plan;
  api::SweepHeader header;  // but for the provenance of the server itself
  std::vector<std::string> warnings;
  std::string hash;  // SHA-256 of the canonical resolved plan
};

// Resolves everything a request names, and plans it once to know its cost. Runs nothing, allocates no tensors. Any thread. `handles`: those
// that it may read; none by default.
absl::StatusOr<BuiltSweep> BuildSweep(const LoadedModel& model, const api::SweepRequest& request, const config::Limits& limits,
                                      RequestHandles handles = {});

}  // namespace fluoroscope::engine
