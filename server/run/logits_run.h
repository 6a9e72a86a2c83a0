// The end of a batch: logits and top tokens of the positions and columns that somebody reads, and the metrics.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "model/packed_rows.h"
#include "run/metrics_run.h"
#include "run/plan.h"
#include "run/result_writer.h"

namespace fluoroscope::run {

// Belongs to a BatchRun; used on the executor's thread. `normalized` [live.tokens(), d_model] is what the unembedding multiplies.
class LogitsRun {
 public:
  LogitsRun(const RunPlan& plan, const std::vector<size_t>& rows, const model::PackedRows& live, at::Tensor normalized,
            std::vector<at::Tensor>& kept, ResultWriter& out);

  // Unembeds a bounded number of positions. False when nothing is left.
  bool Step();

 private:
  // Some positions of one row that want all columns.
  struct Piece {
    const RowPlan* row;
    const model::RowSpan* span;
    size_t first, count;  // within row->logits->positions
  };

  void Columns(const RowPlan& row, const model::RowSpan& span);
  void Unembed(const std::vector<Piece>& pieces);
  void Emit(const Piece& piece, const at::Tensor& logits);
  at::Tensor Lines(const model::RowSpan& span, const std::vector<int64_t>& positions) const;

  const RunPlan& plan_;
  model::PackedRows live_;
  at::Tensor normalized_;
  ResultWriter& out_;
  MetricsRun metrics_;
  std::deque<Piece> pieces_;                               // waiting
  at::Tensor unfinished_;                                  // logits [positions, vocabulary] of a row that is unembedded in several steps
  size_t next_row_ = 0;                                    // of live_: chosen columns, a row a step
  std::vector<std::array<at::Tensor, 3>> unfinished_top_;  // tokens, logits, log-probabilities of such a row's pieces
  std::vector<size_t> rows_;
};

}  // namespace fluoroscope::run
