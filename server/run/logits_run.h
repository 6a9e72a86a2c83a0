// The end of a batch: logits and top tokens of the positions and columns that somebody reads, and the metrics.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "model/packed_rows.h"
#include "run/joined_lines.h"
#include "run/lane.h"
#include "run/metrics_run.h"

namespace fluoroscope::run {

// Belongs to a BatchRun; used on the executor's thread. `normalized` [live.tokens(), d_model] is what the unembedding multiplies.
class LogitsRun {
 public:
  // The references outlive it.
  LogitsRun(const model::Model& model, const LaneRows& rows, model::PackedRows live, at::Tensor normalized);

  // Unembeds a bounded number of positions. False when nothing is left.
  bool Step();

  // Forgets this run's rows. What the others have sent they do not send again. False when nothing is left.
  bool Remove(const Lane& lane);

 private:
  // Some positions of one row that want all columns.
  struct Piece {
    int64_t slot;
    size_t first, count;  // within the row's logits->positions
  };

  const LaneRow& Row(int64_t slot) const { return rows_[static_cast<size_t>(slot)]; }
  bool Left() const { return !metrics_->done() || next_row_ < live_.rows().size() || !pieces_.empty(); }
  void Columns(const LaneRow& row, const model::RowSpan& span);
  void Unembed(const std::vector<Piece>& pieces);
  void Emit(const Piece& piece, const at::Tensor& logits);
  at::Tensor Lines(const model::RowSpan& span, const std::vector<int64_t>& positions) const;

  const model::Model& model_;
  const LaneRows& rows_;
  model::PackedRows live_;
  at::Tensor normalized_;
  std::optional<MetricsRun> metrics_;
  std::deque<Piece> pieces_;  // waiting
  // Of the row that is being unembedded, in several steps if it has many positions: its logits, or tokens, logits and log-probabilities.
  JoinedLines logits_;
  std::array<JoinedLines, 3> top_;
  size_t next_row_ = 0;  // of live_: chosen columns, a row a step
};

}  // namespace fluoroscope::run
