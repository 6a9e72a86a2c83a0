#include "run/cost.h"

#include <algorithm>
#include <map>

#include "intervention/column_metrics.h"
#include "intervention/vocabulary_metrics.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;

// Elements of one row's tensor at a place. A key axis has one entry per token of the row.
int64_t Elements(const Place& place, const RowPlan& row, const Architecture& arch) {
  int64_t elements = 1;
  const std::vector<model::Axis>& axes = model::SpecOf(place.site).axes;
  for (size_t i = 0; i < axes.size(); ++i) {
    const model::Axis axis = axes[i];
    if (i + 1 == axes.size() && !place.units.empty()) {
      elements *= static_cast<int64_t>(place.units.size());
    } else if (axis == model::Axis::kPosition || axis == model::Axis::kQuery) {
      elements *= static_cast<int64_t>(place.positions.size());
    } else if (axis == model::Axis::kKey) {
      elements *= row.length();
    } else if ((axis == model::Axis::kHead || axis == model::Axis::kKvHead) && !place.heads.empty()) {
      elements *= static_cast<int64_t>(place.heads.size());
    } else {
      elements *= model::SizeOf(axis, arch);
    }
  }
  return elements;
}

int64_t LastAxis(const Place& place, const RowPlan& row, const Architecture& arch) {
  const model::Axis axis = model::SpecOf(place.site).axes.back();
  return axis == model::Axis::kKey ? row.length() : model::SizeOf(axis, arch);
}

int64_t CaptureBytes(const CapturePlan& capture, const RowPlan& row, const Architecture& arch, int64_t element_size) {
  const int64_t elements = Elements(capture.place, row, arch);
  const int64_t lines = elements / std::max<int64_t>(1, LastAxis(capture.place, row, arch));
  if (capture.top_k > 0) return lines * capture.top_k * (element_size + 8);
  if (capture.lens) return lines * (capture.lens->top_k * (8 + 4 + 4) + static_cast<int64_t>(capture.lens->columns.size()) * (4 + 4));
  if (capture.writes) {
    const int64_t n = capture.writes->directions.size(0);
    return capture.writes->top_k > 0 ? lines * n * capture.writes->top_k * (4 + 8) : elements * n * 4;
  }
  if (capture.directions.defined()) return lines * capture.directions.size(0) * 4;
  return elements * element_size;
}

int64_t LogitsBytes(const RowPlan& row, const Architecture& arch, int64_t element_size) {
  if (!row.logits) return 0;
  const int64_t positions = static_cast<int64_t>(row.logits->positions.size());
  if (row.logits->top_k > 0) return positions * row.logits->top_k * (8 + 4 + 4);
  const int64_t columns = row.logits->columns.empty() ? arch.vocabulary : static_cast<int64_t>(row.logits->columns.size());
  return positions * columns * element_size;
}

int64_t ElementSize(const Place& place, int64_t models) { return InFloat32(place.site) ? 4 : models; }

bool LooksInside(const Place& place) { return place.site == model::Site::kAttnScores || place.site == model::Site::kPattern; }

// What a single row needs beside the batch's matrices while it is computed by itself.
int64_t ExtraBytes(const RowPlan& row, const Architecture& arch, int64_t element_size) {
  int64_t extra = 0;
  const auto look = [&](const Place& place) {
    const int64_t n = row.length();
    if (LooksInside(place))
      extra = std::max(extra,
                       (row.edits.empty() ? 2 : 3) * arch.heads * n * n * element_size + n * n);  // scores, pattern, mask, an edited copy
    if (place.site == model::Site::kResult) extra = std::max(extra, n * arch.heads * arch.d_model * element_size);
  };
  for (const CapturePlan& capture : row.captures) {
    look(capture.place);
    // What units write along all directions, before the largest are taken: the products and their magnitudes.
    if (capture.writes)
      extra = std::max(extra,
                       Elements(capture.place, row, arch) * capture.writes->directions.size(0) * (capture.writes->top_k > 0 ? 3 : 1) * 4);
  }
  for (const KeepPlan& keep : row.keeps) look(keep.place);
  for (const EditPlan& edit : row.edits) look(edit.place);
  return extra;
}

// What the edits of a batch need: the first at a site copies the whole site; each then holds its own part a few times in float32.
int64_t EditBytes(const RowPlan& row, const Architecture& arch, int64_t element_size, int64_t batch_tokens, int64_t largest_keep) {
  constexpr int64_t kCopies = 6 * sizeof(float);
  int64_t bytes = 0;
  for (const EditPlan& edit : row.edits) {
    int64_t here = Elements(edit.place, row, arch) * kCopies;
    // Of sites that a row has to itself ExtraBytes counts the copy.
    if (!LooksInside(edit.place) && edit.place.site != model::Site::kResult) {
      int64_t per_token = 1;
      for (const model::Axis axis : model::SpecOf(edit.place.site).axes)
        if (axis != model::Axis::kPosition) per_token *= model::SizeOf(axis, arch);
      here += batch_tokens * per_token * ElementSize(edit.place, element_size);
    }
    // A mean adds its sources up in float64.
    if (std::holds_alternative<intervention::Mean>(edit.edit)) here += 2 * static_cast<int64_t>(sizeof(double)) * largest_keep;
    if (const auto* swap = std::get_if<intervention::SwapSubspace>(&edit.edit); swap != nullptr && swap->part != nullptr) {
      // The matrix in float64 (and as taken from the weights), its Gram matrix, eigenvectors and their workspace.
      const int64_t rows = swap->part->reader.size(0), columns = swap->part->reader.size(1), side = std::min(rows, columns);
      here += static_cast<int64_t>(sizeof(double)) * (2 * rows * columns + 6 * side * side);
    }
    bytes = std::max(bytes, here);
  }
  return bytes;
}

// Lines whose logits metrics need whole: an upper bound, because they share lines.
int64_t WholeLines(const RowPlan& row) {
  int64_t lines = 0;
  for (const MetricPlan& metric : row.metrics)
    if (intervention::NeedsVocabulary(metric.metric)) lines += static_cast<int64_t>(metric.positions.size());
  for (const KeepLogitsPlan& keep : row.keep_logits) lines += static_cast<int64_t>(keep.positions.size());
  return lines;
}

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

// Values that wait for the unembedding (of one layer at a time), and the logits of one step of it.
class Lenses {
 public:
  void Add(const RowPlan& row, const Architecture& arch, int64_t element_size) {
    for (const CapturePlan& capture : row.captures)
      if (capture.lens) waiting_[capture.place.layer] += Elements(capture.place, row, arch) * element_size;
  }
  int64_t Bytes(const Architecture& arch, int64_t element_size) const {
    int64_t most = 0;
    for (const auto& [_, bytes] : waiting_) most = std::max(most, bytes);
    if (most == 0) return 0;
    const int64_t lines = std::min(kPositionsPerStep, most / (arch.d_model * element_size));
    return most + lines * (arch.vocabulary * (element_size == 4 ? 8 : element_size + 8) + 3 * arch.d_model * 4);
  }

 private:
  std::map<int64_t, int64_t> waiting_;  // bytes by layer
};

// The matrices that live at the same time, at the widest moment of a layer (attention or MLP), per token.
int64_t WorkingElementsPerToken(const Architecture& arch) {
  const int64_t d = arch.d_model, q = arch.q_size(), kv = arch.kv_size();
  const int64_t rotated = arch.positions == model::PositionScheme::kRotary ? q + kv : 0;
  const int64_t attention = 2 * d + (q + 2 * kv) + rotated + q;  // residual, norm, qkv, copies, z
  const int64_t mlp = 2 * d + (arch.gated_mlp ? 3 : 2) * arch.d_mlp;
  return std::max(attention, mlp);
}

// Whether somebody looks at what the heads of a layer read.
bool ReadsHeads(const RowPlan& row, int64_t layer) {
  return std::any_of(row.keeps.begin(), row.keeps.end(), [&](const KeepPlan& keep) {
    return keep.place.layer == layer && model::SpecOf(keep.place.site).part == model::Part::kAttention;
  });
}

double Flops(const RowPlan& row, const Architecture& arch) {
  const double d = static_cast<double>(arch.d_model), q = static_cast<double>(arch.q_size()), kv = static_cast<double>(arch.kv_size());
  const double mlp = d * static_cast<double>(arch.d_mlp) * (arch.gated_mlp ? 3 : 2);
  const double n = static_cast<double>(row.lines()), keys = static_cast<double>(row.length());
  const double last = static_cast<double>(row.last_positions.size());
  double flops = 0;
  const Point start = row.joins().value_or(Point{});
  for (int64_t layer = std::max<int64_t>(0, start.layer); layer < arch.layers; ++layer) {
    const Point attention{layer, model::Part::kAttention}, feed_forward{layer, model::Part::kMlp};
    const double kept = std::min(row.stop.layer, arch.layers - 1) == layer ? last : n;
    if (row.frozen(layer, model::Part::kAttention)) {
      if (row.stop >= attention && ReadsHeads(row, layer)) flops += 2 * n * d * (q + 2 * kv);
    } else if (row.stop >= attention && start <= attention)
      flops += 2 * (n * d * 2 * kv + kept * (d * q + q * d)) + 4 * kept * q * keys / 2;
    if (row.stop >= feed_forward && !row.frozen(layer, model::Part::kMlp)) flops += 2 * kept * mlp;
  }
  if (row.logits) {
    const double columns =
        static_cast<double>(row.logits->columns.empty() ? arch.vocabulary : static_cast<int64_t>(row.logits->columns.size()));
    flops += 2 * static_cast<double>(row.logits->positions.size()) * d * columns;
  }
  flops += 2 * static_cast<double>(std::min(WholeLines(row), row.length())) * d * static_cast<double>(arch.vocabulary);
  return flops;
}

}  // namespace

bool InFloat32(model::Site site) {
  switch (site) {
    case model::Site::kLn1Scale:
    case model::Site::kLn1Normalized:
    case model::Site::kLn2Scale:
    case model::Site::kLn2Normalized:
    case model::Site::kLnFinalScale:
    case model::Site::kLnFinalNormalized:
      return true;
    default:
      return false;
  }
}

Cost CostOf(const RunPlan& plan) {
  const Architecture& arch = plan.model->arch;
  const int64_t element_size = static_cast<int64_t>(c10::elementSize(plan.model->dtype));
  Cost cost;
  int64_t kept = static_cast<int64_t>(plan.given_bytes), results = 0, handles = 0, working = 0, largest_keep = 0;
  for (const GivenPlan& given : plan.given) {
    kept += static_cast<int64_t>(given.bytes);
    largest_keep = std::max(largest_keep, static_cast<int64_t>(given.bytes) / static_cast<int64_t>(given.value.element_size()));
  }
  for (const RowPlan& row : plan.rows) {
    for (const KeepPlan& keep : row.keeps) {
      const int64_t elements = Elements(keep.place, row, arch);
      kept += elements * ElementSize(keep.place, element_size);
      largest_keep = std::max(largest_keep, elements);
    }
    if (row.start) kept += static_cast<int64_t>(row.start->value.nbytes());
    for (const KeepLogitsPlan& keep : row.keep_logits)
      kept += static_cast<int64_t>(keep.positions.size()) * arch.vocabulary * static_cast<int64_t>(sizeof(float));
    for (const CapturePlan& capture : row.captures)
      (capture.keep_seconds > 0 ? handles : results) += CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size));
    results += LogitsBytes(row, arch, element_size);
    cost.flops += Flops(row, arch);
    cost.tokens += static_cast<uint64_t>(row.lines());
  }
  for (const std::vector<size_t>& batch : plan.Batches()) {
    int64_t tokens = 0, extra = 0, ranked = 0, pieced = 0, edited = 0, whole = 0;
    Columns columns;
    Lenses lenses;
    for (size_t index : batch) tokens += plan.rows[index].lines();
    for (size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      edited = std::max(edited, EditBytes(row, arch, element_size, tokens, largest_keep));
      whole += WholeLines(row);
      columns.Add(row);
      lenses.Add(row, arch, element_size);
      extra = std::max(extra, ExtraBytes(row, arch, element_size));
      if (!row.logits || !row.logits->columns.empty()) continue;
      const int64_t positions = static_cast<int64_t>(row.logits->positions.size());
      if (row.logits->top_k > 0) ranked += positions;
      if (positions > kPositionsPerStep) pieced = kPositionsPerStep;
    }
    const int64_t layer = tokens * WorkingElementsPerToken(arch) * element_size + extra + edited;
    // A step of logits beside the results. Where only the best are wanted: all of them, and their exponentials in float32. Where a row
    // takes several steps: the piece that is then copied to its place.
    const int64_t ranked_step = std::min(ranked, kPositionsPerStep) * arch.vocabulary * (element_size == 4 ? 8 : element_size + 8);
    const int64_t whole_step =
        std::min(whole, kPositionsPerStep) * arch.vocabulary * (intervention::kVocabularyBytes + (element_size == 4 ? 0 : element_size));
    const int64_t column_step = columns.AtOnce() * arch.d_model * (4 + (element_size == 4 ? 0 : element_size));
    const int64_t logits = tokens * 3 * arch.d_model * element_size +
                           std::max({ranked_step, pieced * arch.vocabulary * element_size, whole_step, column_step});
    working = std::max({working, layer, logits}) + lenses.Bytes(arch, element_size);
  }
  cost.reply_bytes = static_cast<uint64_t>(results);
  cost.handle_bytes = static_cast<uint64_t>(handles);
  cost.peak_bytes = static_cast<uint64_t>(results + handles + kept + working) + (uint64_t{1} << 20);
  return cost;
}

}  // namespace fluoroscope::run
