// Captures of gradients: which metric of which row, and whether it can be differentiated.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "api/plan.h"
#include "engine/plan_draft.h"

namespace fluoroscope::engine {

// Adds the gradients that a capture asks of each row. The draft has all metrics. `tensors` counts those of all captures.
absl::Status AddGradients(const api::Capture& capture, uint32_t index, PlanDraft& draft, size_t& tensors);

}  // namespace fluoroscope::engine
