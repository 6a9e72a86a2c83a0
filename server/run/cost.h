// What a plan will cost, from its numbers alone.
#pragma once

#include <cstdint>

#include "run/plan.h"

namespace fluoroscope::run {

struct Cost {
  uint64_t peak_bytes = 0;    // most tensor bytes held at once, whenever the reader stops: peak.h
  uint64_t kept_bytes = 0;    // of them, what rows keep for others and edits were given, to the end of the run
  uint64_t reply_bytes = 0;   // tensor bytes sent
  uint64_t handle_bytes = 0;  // of peak_bytes: captures that stay behind as handles
  double flops = 0;           // a multiply-add counts as two; matrix products only
  uint64_t tokens = 0;
};

// `plan` is finished (RunPlan::Finish). Never allocates tensors.
Cost CostOf(const RunPlan& plan);

}  // namespace fluoroscope::run
