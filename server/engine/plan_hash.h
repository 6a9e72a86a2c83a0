// What makes two requests the same run.
#pragma once

#include <optional>
#include <string>

#include "attribution/attribution_plan.h"
#include "attribution/edge_attribution.h"
#include "generate/plan.h"
#include "run/plan.h"
#include "sweep/path_planner.h"
#include "sweep/planner.h"

namespace fluoroscope::engine {

// SHA-256 over the plan's canonical text: everything resolved, so that a name and its id, or -1 and the last position, hash the same.
std::string HashOf(const run::RunPlan& plan);
std::string HashOf(const sweep::SweepPlan& plan, const std::optional<api::CellChoice>& fast = std::nullopt);
std::string HashOf(const sweep::PathPlan& plan);
std::string HashOf(const attribution::AttributionPlan& plan);
std::string HashOf(const attribution::EdgePlan& plan);
std::string HashOf(const generate::GeneratePlan& plan);

}  // namespace fluoroscope::engine
