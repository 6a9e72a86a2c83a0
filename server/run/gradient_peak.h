// What captured gradients hold and cost, from a plan's numbers alone.
#pragma once

#include <cstdint>

#include "run/plan.h"

namespace fluoroscope::run {

// Bytes of a row's gradients in the reply.
int64_t GradientResultBytes(const RowPlan& row, const model::Architecture& arch);

// The most bytes that a row's passes hold at once: the inputs of its segments, one segment's graph or a step of its metric, and the results
// by then, which count as unsent.
int64_t GradientPeakBytes(const RowPlan& row, const model::Model& model);

// Of its passes, where `forward` is the operations of one forward pass.
double GradientFlops(const RowPlan& row, const model::Architecture& arch, double forward);

}  // namespace fluoroscope::run
