// Interventions of a request become edits of rows.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "api/plan.h"
#include "engine/plan_draft.h"

namespace fluoroscope::engine {

// Adds the edits of one intervention to all rows it is for. `field` names it in errors. INVALID_ARGUMENT when it matches nothing, when a
// tensor does not fit the places, or a source is too short.
absl::Status ResolveIntervention(const api::Intervention& intervention, PlanDraft& draft, const std::string& field);

}  // namespace fluoroscope::engine
