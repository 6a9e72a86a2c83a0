// What every request with prompts and captures is resolved with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/plan.h"
#include "api/results.h"
#include "engine/plan_draft.h"
#include "run/plan.h"

namespace fluoroscope::engine {

// A field's entry as errors name it: "captures[2]".
std::string Item(const char* list, size_t index);

// Adds a row for each prompt to the draft, and what the reply's header says of it to `rows`.
absl::Status AddPrompts(const std::vector<api::Prompt>& prompts, uint64_t max_tokens, PlanDraft& draft, std::vector<api::RowInfo>& rows);

// Adds what a capture asks of each row. `tensors` counts those of all captures.
absl::Status AddCapture(const api::Capture& capture, uint32_t index, PlanDraft& draft, size_t& tensors);

// How rows attend, for provenance: those that look into scores or pattern do it explicitly.
std::string AttentionOf(const run::RunPlan& plan);

}  // namespace fluoroscope::engine
