// The part of a site's tensor that a capture reads or an intervention writes: some positions, heads and units of one row.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace fluoroscope::intervention {

// Axes are those of the tensor at hand (a packed matrix of many rows, or one row's own tensor).
struct Region {
  int position_axis = 0;
  std::vector<int64_t> lines;  // indices along the position axis
  int head_axis = -1;          // -1: the site has none
  std::vector<int64_t> heads;  // indices along the head axis; empty: all
  std::vector<int64_t> units;  // indices along the last axis; empty: all
  bool masked = false;         // the site holds -inf where a query may not see a key
};

// A fresh tensor with the region's entries: `lines.size()` along the position axis, the chosen heads along the head axis, the chosen units
// along the last. A view of `value` instead, when the lines are consecutive and all heads and units are wanted.
at::Tensor Read(const at::Tensor& value, const Region& region);

// Replaces the region's entries of `value` by `entries` (of the shape Read gives), in place: for a value that only the caller has.
void Write(at::Tensor& value, const Region& region, const at::Tensor& entries);

}  // namespace fluoroscope::intervention
