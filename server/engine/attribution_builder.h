// From an attribution request to a plan that can run.
#pragma once

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "attribution/attribution_run.h"
#include "engine/sweep_builder.h"

namespace fluoroscope::engine {

struct BuiltAttribution {
  attribution::AttributionPlan plan;
  BuiltSweep sweep;  // header, warnings and hash; its plan has moved to `plan`
};

// Resolves everything a request names. Runs nothing, allocates no tensors. Any thread.
absl::StatusOr<BuiltAttribution> BuildAttribution(const LoadedModel& model, const api::AttributionRequest& request,
                                                  const config::Limits& limits);

}  // namespace fluoroscope::engine
