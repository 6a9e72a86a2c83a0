// Rows of several runs in one batch: what each run has to itself there.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <vector>

#include "run/plan.h"
#include "run/result_writer.h"

namespace fluoroscope::run {

// One run's part in a batch. Belongs to the run; stays where it is while the batch has rows of it.
struct Lane {
  const RunPlan& plan;
  std::vector<at::Tensor>& kept;  // the values of earlier waves; takes those of this batch
  ResultWriter& out;
};

// A row of a batch. Its index there is its slot.
struct LaneRow {
  const Lane* lane;
  const RowPlan* plan;
};
using LaneRows = std::vector<LaneRow>;

// Appends these rows of a run (indices into its plan).
void AddRows(const Lane& lane, const std::vector<size_t>& rows, LaneRows& to);

// Puts rows of equal length and first position side by side, whosesoever they are. Those of one run keep their order.
void SortByLength(LaneRows& rows);

}  // namespace fluoroscope::run
