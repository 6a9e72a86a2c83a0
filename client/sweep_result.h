// What a sweep found, and how it is put together from the server's stream.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fluoroscope/v1/patching.pb.h"

namespace fluoroscope::client {

// The axes, prompts, metrics and costs are in `header`, as the server sent them. Cells are numbered row-major over header.axes.
struct SweepResult {
  v1::SweepHeader header;
  v1::SweepSummary summary;
  v1::PrecisionCheck precision;  // of sweeps in SWEEP_PRECISION_FAST: how far they were off; else empty
  size_t cells = 0;              // of one pair
  std::vector<double> base;      // [pairs, metrics]: the run that values are patched into
  std::vector<double> source;    // [pairs, metrics]: the source prompt's run; NaN where a pair has handles and no source prompt
  std::vector<double> values;    // [pairs, cells, metrics]

  size_t pairs() const { return static_cast<size_t>(header.clean_size()); }
  size_t metrics() const { return static_cast<size_t>(header.metrics_size()); }

  // Means over the pairs; `metric` is an index into header.metrics.
  double MeanBase(size_t metric = 0) const;
  double MeanSource(size_t metric = 0) const;
  std::vector<double> MeanValues(size_t metric = 0) const;  // [cells]
  // (mean value - mean base) / (mean source - mean base): 0 is the base run, 1 the source run. Not clipped. FAILED_PRECONDITION when source
  // and base differ by less than a thousandth of their size, so that the ratio would be noise.
  absl::StatusOr<std::vector<double>> Normalized(size_t metric = 0) const;
};

// Takes the messages of one Sweep reply and gives the whole. Trusts nothing: every cell must come exactly once.
class SweepAssembler {
 public:
  // DATA_LOSS for a message that does not fit what came before.
  absl::Status Take(const v1::SweepReply& message);
  // Once, after the last message.
  absl::StatusOr<SweepResult> Finish();

  size_t done() const { return done_; }          // cells that have come, of all pairs
  size_t total() const { return seen_.size(); }  // 0 before the header

 private:
  absl::Status Begin(const v1::SweepHeader& header);
  absl::Status TakeReference(const v1::SweepReference& reference);
  absl::Status TakeCells(const v1::SweepCells& cells);

  SweepResult result_;
  bool has_header_ = false, has_summary_ = false;
  size_t done_ = 0;
  std::vector<bool> seen_;             // [pairs, cells]
  std::vector<bool> seen_references_;  // [pairs]
};

}  // namespace fluoroscope::client
