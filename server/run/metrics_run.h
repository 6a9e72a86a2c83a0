// The metrics of a batch: those of all its rows together, so that a thousand rows with the same metric cost one product.
#pragma once

#include <vector>

#include "intervention/column_metrics.h"
#include "intervention/vocabulary_metrics.h"
#include "model/packed_rows.h"
#include "run/lane.h"

namespace fluoroscope::run {

// Belongs to a LogitsRun; used on the executor's thread. Also keeps the logits that rows of later waves are compared with.
class MetricsRun {
 public:
  // The references outlive it; `rows` by slot. What earlier waves and this batch kept is in the lanes, which take this batch's references.
  MetricsRun(const model::Model& model, const LaneRows& rows, const model::PackedRows& live);

  bool done() const { return done_; }

  // Computes a bounded piece. `normalized` [live.tokens(), d_model] is what the unembedding multiplies, the same in every step. The last
  // step hands the values out: row by row, in the order of the request.
  void Step(const at::Tensor& normalized);

 private:
  struct Value {
    const LaneRow* row;
    const MetricPlan* metric;
    size_t position;  // which of the metric's
    double value = 0;
  };
  // Everything that one line of the batch is wanted for with all its logits.
  struct Line {
    int64_t line;
    std::vector<intervention::VocabularyReading> readings;
    std::vector<intervention::ReferenceLine> references;
  };

  void AddRow(const LaneRow& row, const model::RowSpan& span);
  void ReadOut();
  void Vocabulary(const at::Tensor& normalized);

  const model::Model& model_;
  std::vector<Value> values_;                         // of all rows; the readings point into it
  std::vector<intervention::ColumnReading> columns_;  // some logits are enough
  std::vector<Line> lines_;                           // all are needed; ascending lines
  size_t next_column_ = 0, next_line_ = 0;
  bool done_ = false;
};

}  // namespace fluoroscope::run
