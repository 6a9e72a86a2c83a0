// What a batch holds on its way through the layers, from a plan's numbers alone: a part of peak.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "run/plan.h"

namespace fluoroscope::run {

// The widest moment, in bytes, beside what rows keep and send. `largest_keep`: elements of the largest value that edits read.
int64_t LayersBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size, int64_t largest_keep);

}  // namespace fluoroscope::run
