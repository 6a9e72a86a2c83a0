// What the places on a sweep's axes are called.
#pragma once

#include <vector>

#include "api/sweep.h"
#include "sweep/planner.h"

namespace fluoroscope::engine {

// One entry per axis of the grid. `bases` are the base prompts, one per pair: tokens name a position where all pairs have the same one
// there.
std::vector<api::SweepAxisInfo> LabelsOf(const api::SweepRequest& request, const sweep::SweepPlan& plan,
                                         const std::vector<api::RowInfo>& bases);

}  // namespace fluoroscope::engine
