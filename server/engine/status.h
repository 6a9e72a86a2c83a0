// What the engine's executor is doing, as the wire shows it.
#pragma once

#include "api/status.h"
#include "residency/weight_budget.h"
#include "sched/executor.h"

namespace fluoroscope::engine {

// Any thread. Principals become hashes: enough to tell them apart, useless to call with.
api::ServerStatus StatusOf(const sched::Executor& executor, uint64_t budget_bytes, const residency::WeightBudget& weights);

}  // namespace fluoroscope::engine
