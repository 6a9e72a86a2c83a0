#include "run/peak.h"

#include <algorithm>
#include <map>
#include <vector>

#include "intervention/column_metrics.h"
#include "intervention/vocabulary_metrics.h"
#include "model/log_sum.h"
#include "run/gradient_peak.h"
#include "run/layers_peak.h"
#include "run/sizes.h"
#include "run/unsent.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Site;

// Columns of the unembedding that products for metrics of some columns take at a time.
class Columns {
 public:
  void Add(const RowPlan& row) {
    for (const MetricPlan& metric : row.metrics) {
      const int64_t tokens = static_cast<int64_t>(intervention::WeightedTokensOf(metric.metric).size());
      all_ += tokens;
      largest_ = std::max(largest_, tokens);
    }
  }
  int64_t AtOnce() const { return std::min(all_, largest_); }

 private:
  int64_t all_ = 0, largest_ = static_cast<int64_t>(intervention::kTokensPerProduct);
};

// The chosen logits of one step with their tokens or probabilities, where so many lines take several: they are then copied to their place
// (joined_lines.h).
int64_t PieceBytes(int64_t lines, int64_t line_bytes) { return lines > kPositionsPerStep ? kPositionsPerStep * line_bytes : 0; }

// A logit, in float32 too, and what its exponential takes.
int64_t LogitBytes(const RunPlan& plan, int64_t element_size) {
  return (element_size == 4 ? 0 : element_size) + static_cast<int64_t>(sizeof(float)) + model::LogSumExpBytes(plan.model->device);
}

// One of a step's best tokens: its number, its logit, and its log-probability where that is not made in the place of an exponential.
int64_t BestBytes(const RunPlan& plan) { return 8 + 4 + (model::LogSumExpBytes(plan.model->device) == 0 ? 4 : 0); }

// Values that wait for the unembedding (of one layer at a time), and the logits of one step of it, beside the residual.
int64_t LensBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
  const Architecture& arch = plan.model->arch;
  std::map<int64_t, int64_t> waiting;  // bytes by layer
  int64_t tokens = 0, most = 0, piece = 0;
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    tokens += row.lines();
    for (const CapturePlan& capture : row.captures) {
      if (!capture.lens) continue;
      const int64_t elements = Elements(capture.place, row, arch);
      waiting[capture.place.layer] += elements * element_size;
      const int64_t columns = static_cast<int64_t>(capture.lens->columns.size());
      piece = std::max(piece, PieceBytes(elements / arch.d_model, capture.lens->top_k * BestBytes(plan) + columns * (4 + 4)));
    }
  }
  for (const auto& [_, bytes] : waiting) most = std::max(most, bytes);
  if (most == 0) return 0;
  const int64_t lines = std::min(kPositionsPerStep, most / (arch.d_model * element_size));
  return tokens * arch.d_model * element_size + most + lines * (arch.vocabulary * LogitBytes(plan, element_size) + 3 * arch.d_model * 4) +
         piece;
}

// A step of logits beside the results.
int64_t LogitsStepBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
  const Architecture& arch = plan.model->arch;
  int64_t read = 0, ranked = 0, ranked_piece = 0, pieced = 0, whole = 0;
  bool compares = false;
  Columns columns;
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    if (!row.reads_logits()) continue;
    read += static_cast<int64_t>(row.last_positions.size());
    whole += WholeLines(row);
    columns.Add(row);
    for (const MetricPlan& metric : row.metrics)
      compares = compares || std::holds_alternative<intervention::ToReference>(metric.metric) ||
                 std::holds_alternative<intervention::Rank>(metric.metric);
    if (!row.logits || !row.logits->columns.empty()) continue;
    const int64_t positions = static_cast<int64_t>(row.logits->positions.size());
    if (row.logits->top_k > 0) {
      ranked += positions;
      ranked_piece = std::max(ranked_piece, PieceBytes(positions, row.logits->top_k * BestBytes(plan)));
    }
    if (positions > kPositionsPerStep) pieced = kPositionsPerStep;
  }
  if (read == 0) return 0;
  // Where only the best are wanted: all of them. Where a row takes several steps: the piece that is then copied to its place.
  const int64_t ranked_step = std::min(ranked, kPositionsPerStep) * arch.vocabulary * LogitBytes(plan, element_size) + ranked_piece;
  const int64_t whole_lines = std::min(whole, kPositionsPerStep);
  const int64_t whole_step = whole == 0 ? 0
                                        : whole_lines * arch.vocabulary * (element_size == 4 ? 0 : element_size) +
                                              intervention::VocabularyBytes(whole_lines, compares, plan.model->device) * arch.vocabulary;
  const int64_t column_step = columns.AtOnce() * arch.d_model * (4 + (element_size == 4 ? 0 : element_size));
  const int64_t step = std::max({ranked_step, pieced * arch.vocabulary * element_size, whole_step, column_step});
  const int64_t norm = 3 * read * arch.d_model * static_cast<int64_t>(sizeof(float));  // in float32, whatever the model's dtype
  return std::max(norm, (read + std::min(read, kPositionsPerStep)) * arch.d_model * element_size + step);
}

}  // namespace

// Lines whose logits metrics need whole: an upper bound, because they share lines.
int64_t WholeLines(const RowPlan& row) {
  int64_t lines = 0;
  for (const MetricPlan& metric : row.metrics)
    if (intervention::NeedsVocabulary(metric.metric)) lines += static_cast<int64_t>(metric.positions.size());
  for (const KeepLogitsPlan& keep : row.keep_logits) lines += static_cast<int64_t>(keep.positions.size());
  return lines;
}

Peak PeakOf(const RunPlan& plan) {
  const Architecture& arch = plan.model->arch;
  const int64_t element_size = static_cast<int64_t>(c10::elementSize(plan.model->dtype));
  int64_t largest_keep = 0, kept = static_cast<int64_t>(plan.given_bytes), results = 0;
  for (const GivenPlan& given : plan.given) {
    const auto bytes = static_cast<int64_t>(given.bytes);
    kept += bytes;
    largest_keep = std::max(largest_keep, bytes / static_cast<int64_t>(given.value.element_size()));
  }
  Peak peak;
  int64_t shared = 0;  // what a reader may leave of memory that lines of several rows lie in: of any batch so far
  for (const RowPlan& row : plan.rows) {
    for (const KeepPlan& keep : row.keeps) largest_keep = std::max(largest_keep, Elements(keep.place, row, arch));
    if (row.start) kept += static_cast<int64_t>(row.start->value.nbytes());
    for (const CapturePlan& capture : row.captures)
      if (capture.keep_seconds > 0) peak.handles += CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size));
  }
  for (const std::vector<size_t>& batch : plan.Batches()) {
    int64_t kept_logits = 0;
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      for (const KeepPlan& keep : row.keeps) kept += Elements(keep.place, row, arch) * ElementSize(keep.place, element_size);
      for (const KeepLogitsPlan& keep : row.keep_logits)
        kept_logits += static_cast<int64_t>(keep.positions.size()) * arch.vocabulary * static_cast<int64_t>(sizeof(float));
    }
    // What of the results is unsent, if the reader stops at the worst moment.
    const BatchResults made = ResultsOf(plan, batch);
    shared = std::max(shared, made.shared);
    const bool holds = Pools(plan, batch, made, results);
    const auto unsent = [&](int64_t all, int64_t piece) { return UnsentBytes(plan, all, (holds ? made.all() : piece) + shared); };
    const int64_t layers = std::max(LayersBytes(plan, batch, element_size, largest_keep), LensBytes(plan, batch, element_size));
    results += made.captures;
    peak.most = std::max(peak.most, kept + unsent(results, made.captures_piece) + layers);
    kept += kept_logits;
    results += made.logits;
    peak.most = std::max(peak.most, kept + unsent(results, made.logits_piece) + LogitsStepBytes(plan, batch, element_size));
  }
  for (const RowPlan& row : plan.rows) {
    if (row.gradients.empty()) continue;
    peak.most = std::max(peak.most, kept + GradientPeakBytes(plan, row, results, shared));
    results += GradientResultBytes(row, arch);
  }
  peak.most += peak.handles;
  peak.kept = kept;
  return peak;
}

}  // namespace fluoroscope::run
