// What a plan will cost, from its numbers alone.
#pragma once

#include <cstdint>

#include "run/plan.h"

namespace fluoroscope::run {

struct Cost {
  uint64_t peak_bytes = 0;    // most tensor bytes held at once, with all results still unsent
  uint64_t reply_bytes = 0;   // tensor bytes sent
  uint64_t handle_bytes = 0;  // of peak_bytes: captures that stay behind as handles
  double flops = 0;           // a multiply-add counts as two; matrix products only
  uint64_t tokens = 0;
};

// Whether a site's values are float32 whatever the model's dtype: those of norms.
bool InFloat32(model::Site site);

// `plan` is finished (RunPlan::Finish). Never allocates tensors.
Cost CostOf(const RunPlan& plan);

}  // namespace fluoroscope::run
