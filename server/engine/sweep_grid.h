// The axes of a sweep: what a request's sites, layers, heads and units are in a model.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/sweep.h"
#include "engine/loaded_model.h"
#include "sweep/planner.h"

namespace fluoroscope::engine {

bool IsOver(const api::SweepRequest& request, api::SweepAxis axis);

// Sites, layers and heads. Its places on the position and unit axes depend on the prompts.
absl::StatusOr<sweep::Grid> ResolveGrid(const LoadedModel& model, const api::SweepRequest& request);

// Adds the places on the unit axis. For patterns and scores units are keys, one for each token of the base prompt.
absl::Status ResolveUnitAxis(const LoadedModel& model, const api::SweepRequest& request, const std::vector<sweep::Pair>& pairs,
                             sweep::Grid& grid);

}  // namespace fluoroscope::engine
