// Reductions that read a captured value out as logits or along directions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "engine/plan_draft.h"

namespace fluoroscope::engine {

// `field` names the reduction in errors. INVALID_ARGUMENT for tokens or counts that do not exist, FAILED_PRECONDITION when the model's
// logits cannot be trusted.
absl::StatusOr<run::LensPlan> ResolveLens(const api::ReduceLens& lens, const PlanDraft& draft, const std::string& field);

// `place` is the mlp.hook_post of one layer.
absl::StatusOr<run::WritesPlan> ResolveWrites(const api::ReduceWrites& writes, const run::Place& place, const PlanDraft& draft,
                                              const std::string& field);

}  // namespace fluoroscope::engine
