// What attributions cost, from their plans alone.
#pragma once

#include "attribution/attribution_plan.h"
#include "attribution/edge_attribution.h"

namespace fluoroscope::attribution {

// Bytes for admission, and the floating-point operations; of the cells that are run, too.
api::SweepCost CostOf(const AttributionPlan& plan);
api::SweepCost CostOf(const EdgePlan& plan);

}  // namespace fluoroscope::attribution
