// Metrics and logits of a request become part of its rows.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "api/plan.h"
#include "engine/plan_draft.h"

namespace fluoroscope::engine {

// Adds one metric to all rows it is for. `field` names it in errors.
absl::Status ResolveMetric(const api::Metric& metric, PlanDraft& draft, const std::string& field);

// RESOURCE_EXHAUSTED when all the metrics' values do not fit the reply's last message. Call when all are there.
absl::Status CheckMetricValues(PlanDraft& draft);

absl::Status ResolveLogits(const api::LogitsRequest& logits, PlanDraft& draft);

}  // namespace fluoroscope::engine
