// From an attribution request to a plan that can run.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "attribution/pair_scores.h"
#include "config/config.h"
#include "engine/loaded_model.h"

namespace fluoroscope::engine {

struct BuiltAttribution {
  attribution::Scoring scoring;
  api::SweepHeader header;  // but for the provenance of the server itself
  std::vector<std::string> warnings;
  std::string hash;  // SHA-256 of the canonical resolved plan
};

// Resolves everything a request names. Runs nothing, allocates no tensors. Any thread.
absl::StatusOr<BuiltAttribution> BuildAttribution(const LoadedModel& model, const api::AttributionRequest& request,
                                                  const config::Limits& limits);
absl::StatusOr<BuiltAttribution> BuildEdges(const LoadedModel& model, const api::EdgesRequest& request, const config::Limits& limits);

}  // namespace fluoroscope::engine
