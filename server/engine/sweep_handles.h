// Handles as the sources of a sweep's cells.
#pragma once

#include "absl/status/status.h"
#include "api/sweep.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "sweep/planner.h"

namespace fluoroscope::engine {

// Gives the pairs whose request names handles what their cells copy (sweep::Pair::given). The plan's grid and its pairs are resolved
// otherwise. INVALID_ARGUMENT unless there is exactly one handle for each hook point that cells change, of these weights, in the site's
// dtype, finite, and with all positions, heads and units that cells copy. Tensors stay where they lie. Any thread.
absl::Status ResolveSourceHandles(const LoadedModel& model, const api::SweepRequest& request, RequestHandles& handles,
                                  sweep::SweepPlan& plan);

}  // namespace fluoroscope::engine
