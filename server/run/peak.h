// The most memory that a plan's run holds at once, from its numbers alone.
#pragma once

#include <cstdint>

#include "run/plan.h"

namespace fluoroscope::run {

struct Peak {
  int64_t most = 0;  // bytes
  int64_t kept = 0;  // of them, what rows keep for others and what edits were given: held to the end of the run
  // Of them, captures that stay behind as handles. They are charged by themselves before the run begins, so they count at every moment:
  // `most - handles` is what the run needs beside them.
  int64_t handles = 0;
};

// A run's moments one after the other: each batch's layers, with what its edits and explicit attention add there, its lenses, and its
// logits; with everything that was kept and made for the reply by then. Of the reply, as much counts as unsent as can be, whenever the
// reader stops (unsent.h): all of it, or a full buffer and what one piece of work adds. A slight upper bound: a row's captures count from
// its batch's first layer on. tests/server/engine compares it with the counting allocator (estimate_test.cc, stopped_reader_test.cc).
Peak PeakOf(const RunPlan& plan);

// Lines whose logits metrics need whole: an upper bound, because they share lines.
int64_t WholeLines(const RowPlan& row);

// Index tensors, angles, values of metrics: what is too small to be counted one by one.
inline constexpr uint64_t kSlackBytes = uint64_t{1} << 19;

}  // namespace fluoroscope::run
