// What captured gradients hold and cost, from a plan's numbers alone.
#pragma once

#include <cstdint>

#include "run/plan.h"

namespace fluoroscope::run {

// Bytes of a row's gradients in the reply.
int64_t GradientResultBytes(const RowPlan& row, const model::Architecture& arch);

// The most bytes that the passes of one of the plan's rows hold at once: the inputs of its segments, one segment's graph or a step of its
// metric, and what of the results by then can be unsent (unsent.h). `before`: bytes of the results that came before the row's; `shared`:
// what may be held beside them because rows share memory. The row has gradients.
int64_t GradientPeakBytes(const RunPlan& plan, const RowPlan& row, int64_t before, int64_t shared);

// Of its passes, where `forward` is the operations of one forward pass.
double GradientFlops(const RowPlan& row, const model::Architecture& arch, double forward);

}  // namespace fluoroscope::run
