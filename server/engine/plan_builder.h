// From a request to a plan that can run: the only place where the two meet.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "run/cost.h"
#include "run/plan.h"

namespace fluoroscope::engine {

struct BuiltPlan {
  run::RunPlan plan;  // finished
  run::Cost cost;
  std::vector<api::RowInfo> rows;  // what will run, for the reply's header
  std::string hash;                // SHA-256 of the canonical resolved plan
  std::string attention;           // for provenance
};

// Resolves everything a request names. Pure: runs nothing, allocates no tensors but given directions. Any thread.
// `handles`: those that its interventions may read.
absl::StatusOr<BuiltPlan> BuildPlan(const LoadedModel& model, const api::ForwardRequest& request, const config::Limits& limits,
                                    RequestHandles handles = {});

// The ids one prompt runs as, with labels. INVALID_ARGUMENT for an empty prompt, an id outside the vocabulary or a prompt over the context.
absl::StatusOr<api::RowInfo> ResolvePrompt(const LoadedModel& model, const api::Prompt& prompt, const std::string& field);

// A row that begins with activations: where, with what, and what the reply's header says of it.
struct StartedRow {
  api::RowInfo info;
  run::StartPlan start;
};
absl::StatusOr<StartedRow> ResolveActivations(const LoadedModel& model, const api::Activations& given, const std::string& field);

}  // namespace fluoroscope::engine
