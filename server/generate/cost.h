// What a generation will cost, from its numbers alone.
#pragma once

#include "generate/plan.h"
#include "run/cost.h"

namespace fluoroscope::generate {

// An upper bound: as if every continuation took all its tokens. Never allocates tensors.
run::Cost CostOf(const GeneratePlan& plan);

}  // namespace fluoroscope::generate
