#include "run/peak.h"

#include <algorithm>
#include <map>
#include <vector>

#include "intervention/column_metrics.h"
#include "intervention/vocabulary_metrics.h"
#include "model/short_attention.h"
#include "run/gradient_peak.h"
#include "run/sizes.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Site;

// Elements that a layer holds for each token, at its moments. Of a batch in which rows attend in several groups, these are put together.
struct Widths {
  explicit Widths(const Architecture& arch) {
    const int64_t d = arch.d_model, q = arch.q_size(), kv = arch.kv_size();
    const int64_t rotated = arch.positions == model::PositionScheme::kRotary ? q + kv : 0;
    projected = 2 * d + q + 2 * kv;  // residual, norm, q, k and v
    attending = projected + rotated;
    attended = attending + q + d;
    gated = 2 * d + (arch.gated_mlp ? 2 : 1) * arch.d_mlp;
    activated = gated + arch.d_mlp;
    added = 2 * d + arch.d_mlp + d;
  }
  int64_t projected, attending, attended, gated, activated, added;
};

// What is there for each token when a site's hook is called, the site's own value included.
int64_t WidthAt(const Place& place, const Widths& widths, const Architecture& arch) {
  const int64_t d = arch.d_model;
  switch (place.site) {
    case Site::kQ:
    case Site::kK:
    case Site::kV:
      return widths.projected;
    case Site::kRotQ:
    case Site::kRotK:
      return widths.attending;
    case Site::kAttnScores:
    case Site::kPattern:  // what the rows before it have attended to lies there too
    case Site::kZ:
      return widths.attended - d;
    case Site::kResult:
    case Site::kAttnOut:
    case Site::kResidMid:
      return widths.attended;
    case Site::kMlpPre:
    case Site::kMlpPreLinear:
      return widths.gated;
    case Site::kMlpPost:
    case Site::kMlpOut:
    case Site::kResidPost:
      return widths.added;
    default:
      return 3 * d;  // the residual, and what is made of it before anything is projected
  }
}

bool LooksInside(const Place& place) { return place.site == Site::kAttnScores || place.site == Site::kPattern; }
bool IsRowsOwn(const Place& place) { return LooksInside(place) || place.site == Site::kResult; }

// Tensors of a row's own at a site: scores, pattern, mask, keys and values for every head; or each head's part of the output.
int64_t OwnBytes(const Place& place, const RowPlan& row, const Architecture& arch, int64_t element_size) {
  const int64_t n = row.lines(), keys = row.length();
  if (place.site == Site::kResult) return 2 * n * arch.heads * arch.d_model * element_size;  // once by heads, once by positions
  const int64_t behind_prefix = row.first() > 0 ? keys * arch.kv_size() : 0;
  return (2 * arch.heads * n * keys + 2 * keys * arch.q_size() + behind_prefix) * element_size + n * keys;
}

// How often an edit holds its own entries in float32 at once, beside the site's copy.
int64_t CopiesOf(const intervention::Edit& edit) {
  if (std::holds_alternative<intervention::Copy>(edit) || std::holds_alternative<intervention::Zero>(edit)) return 1;
  if (std::holds_alternative<intervention::Set>(edit) || std::holds_alternative<intervention::Scale>(edit)) return 1;
  if (std::holds_alternative<intervention::Add>(edit) || std::holds_alternative<intervention::Mean>(edit) ||
      std::holds_alternative<intervention::Noise>(edit)) {
    return 2;
  }
  return 4;
}

// Whether a site's value is a view of a larger matrix, or is held by the forward pass besides.
bool IsPart(const Place& place) {
  switch (place.site) {
    case Site::kQ:
    case Site::kK:
    case Site::kV:
    case Site::kMlpPre:
    case Site::kMlpPreLinear:
    case Site::kResult:
      return true;
    default:
      return false;
  }
}

// What one edit holds while it is made, beside what the layer holds.
int64_t EditBytes(const EditPlan& edit, const RowPlan& row, const Architecture& arch, int64_t element_size, int64_t lines,
                  int64_t largest_keep) {
  const int64_t entries = Elements(edit.place, row, arch), size = ElementSize(edit.place, element_size);
  const int64_t per_token = ElementsPerToken(edit.place.site, row, arch);
  int64_t copies = CopiesOf(edit.edit) + (element_size == 4 ? 0 : 2);
  if (edit.place.site == Site::kAttnScores) copies += 2;  // what is masked is filled before, and masked again behind
  int64_t bytes = entries * copies * static_cast<int64_t>(sizeof(float));
  // Chosen heads or units are taken from their lines, and the lines put back.
  if (!edit.place.heads.empty() || !edit.place.units.empty())
    bytes += 2 * static_cast<int64_t>(edit.place.positions.size()) * per_token * size;
  // The first edit at a site copies it (of a site that the row has to itself, the row's part), and then the value itself is let go, unless
  // it is a part of something larger.
  const int64_t copy = (IsRowsOwn(edit.place) ? row.lines() : lines) * per_token * size;
  bytes = IsPart(edit.place) ? bytes + copy : std::max(bytes, copy);
  // A mean adds its sources up in float64.
  if (std::holds_alternative<intervention::Mean>(edit.edit)) bytes += 2 * static_cast<int64_t>(sizeof(double)) * largest_keep;
  if (const auto* swap = std::get_if<intervention::SwapSubspace>(&edit.edit); swap != nullptr && swap->part != nullptr) {
    // The matrix in float64 (and as taken from the weights), its Gram matrix, eigenvectors and their workspace.
    const int64_t rows = swap->part->reader.size(0), columns = swap->part->reader.size(1), side = std::min(rows, columns);
    bytes += static_cast<int64_t>(sizeof(double)) * (2 * rows * columns + 6 * side * side);
  }
  return bytes;
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

// Tokens of a batch in each layer's two parts.
class Lines {
 public:
  Lines(const RunPlan& plan, const std::vector<size_t>& batch) : attention_(Size(plan) + 1), mlp_(Size(plan) + 1) {
    const int64_t layers = plan.model->arch.layers;
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      const Point start = row.joins().value_or(Point{0, model::Part::kAttention});
      const int64_t last = std::min(row.stop.layer, layers - 1), first = std::max<int64_t>(0, start.layer);
      if (last < first) continue;
      Add(attention_, first + (start.part == model::Part::kMlp ? 1 : 0), last + 1, row.lines());
      Add(mlp_, first, last, row.lines());
      Add(mlp_, last, last + 1, static_cast<int64_t>(row.last_positions.size()));
    }
    for (size_t layer = 1; layer < attention_.size(); ++layer) {
      attention_[layer] += attention_[layer - 1];
      mlp_[layer] += mlp_[layer - 1];
    }
  }
  int64_t layers() const { return static_cast<int64_t>(attention_.size()) - 1; }
  int64_t Attention(int64_t layer) const { return attention_[static_cast<size_t>(layer)]; }
  int64_t Mlp(int64_t layer) const { return mlp_[static_cast<size_t>(layer)]; }

 private:
  static size_t Size(const RunPlan& plan) { return static_cast<size_t>(plan.model->arch.layers); }
  static void Add(std::vector<int64_t>& to, int64_t first, int64_t end, int64_t lines) {
    if (first >= end) return;
    to[static_cast<size_t>(first)] += lines;
    to[static_cast<size_t>(end)] -= lines;
  }
  std::vector<int64_t> attention_, mlp_;  // first as differences
};

// How rows attend: side by side in groups of equal positions, those with few queries whatever their prefix.
struct Groups {
  Groups(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
    const auto is_short = [&](const RowPlan& row) { return element_size == 4 && row.lines() <= model::kMaxShortQueries; };
    const RowPlan* before = nullptr;
    int64_t rows = 0;  // of the group
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      const bool joins =
          before != nullptr && row.length() == before->length() && (row.first() == before->first() || (is_short(row) && is_short(*before)));
      before = &row;
      if (!joins) {
        ++count;
        rows = 0;
      }
      if (row.first() == 0 || is_short(row)) continue;
      // Keys and values, those of the prefix in front of each row's own; and the mask, also as numbers.
      const int64_t keys = 2 * ++rows * row.length() * plan.model->arch.kv_size() * element_size;
      behind_prefix = std::max(behind_prefix, keys + row.lines() * row.length() * (2 + element_size));
    }
  }
  int64_t count = 0;
  int64_t behind_prefix = 0;  // bytes: the most that a group of rows behind a prefix holds besides
};

// The widest moment of a batch's way through the layers.
int64_t LayersBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size, int64_t largest_keep) {
  const Architecture& arch = plan.model->arch;
  const Widths widths(arch);
  const Lines lines(plan, batch);
  int64_t most = 0, tokens = 0;
  for (const size_t index : batch) tokens += plan.rows[index].lines();
  const Groups groups(plan, batch, element_size);
  const int64_t joined = groups.count > 1 ? arch.q_size() : 0;
  for (int64_t layer = 0; layer < lines.layers(); ++layer) {
    const int64_t attention = lines.Attention(layer) * (widths.attended + joined) * element_size;
    // While rows attend, what follows is not there yet.
    const int64_t attending = lines.Attention(layer) * (widths.attended - arch.d_model) * element_size + groups.behind_prefix;
    const int64_t mlp = lines.Mlp(layer) * std::max(widths.activated, widths.added) * element_size;
    most = std::max({most, attention, attending, mlp});
  }
  most = std::max(most, 3 * tokens * arch.d_model * element_size);
  const auto there = [&](const Place& place) {
    const model::SiteSpec& spec = model::SpecOf(place.site);
    const int64_t in_layer = !spec.in_block                   ? tokens
                             : spec.part == model::Part::kMlp ? lines.Mlp(place.layer)
                                                              : lines.Attention(place.layer);
    return std::pair(in_layer, in_layer * WidthAt(place, widths, arch) * element_size);
  };
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    const bool edits = !row.edits.empty();
    for (const CapturePlan& capture : row.captures) {
      if (IsRowsOwn(capture.place)) {
        // A value that is sent as it is counts as a result.
        const bool sent =
            !edits && capture.keep_seconds == 0 && !capture.reduced() && capture.place.heads.empty() && capture.place.units.empty();
        const int64_t own = OwnBytes(capture.place, row, arch, element_size);
        most = std::max(most, there(capture.place).second + own - (sent ? CaptureBytes(capture, row, arch, element_size) : 0));
      }
      // What units write along all directions, before the largest are taken: the products and their magnitudes.
      if (capture.writes) {
        const int64_t products = Elements(capture.place, row, arch) * capture.writes->directions.size(0) * 4;
        most = std::max(most, there(capture.place).second + products * (capture.writes->top_k > 0 ? 3 : 1));
      }
    }
    for (const KeepPlan& keep : row.keeps)
      if (IsRowsOwn(keep.place)) most = std::max(most, there(keep.place).second + OwnBytes(keep.place, row, arch, element_size));
    for (const EditPlan& edit : row.edits) {
      const auto [in_layer, held] = there(edit.place);
      const int64_t own = IsRowsOwn(edit.place) ? OwnBytes(edit.place, row, arch, element_size) : 0;
      most = std::max(most, held + own + EditBytes(edit, row, arch, element_size, in_layer, largest_keep));
    }
  }
  return most;
}

// Values that wait for the unembedding (of one layer at a time), and the logits of one step of it, beside the residual.
int64_t LensBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
  const Architecture& arch = plan.model->arch;
  std::map<int64_t, int64_t> waiting;  // bytes by layer
  int64_t tokens = 0, most = 0;
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    tokens += row.lines();
    for (const CapturePlan& capture : row.captures)
      if (capture.lens) waiting[capture.place.layer] += Elements(capture.place, row, arch) * element_size;
  }
  for (const auto& [_, bytes] : waiting) most = std::max(most, bytes);
  if (most == 0) return 0;
  const int64_t lines = std::min(kPositionsPerStep, most / (arch.d_model * element_size));
  return tokens * arch.d_model * element_size + most + lines * (arch.vocabulary * 8 + 3 * arch.d_model * 4);
}

// A step of logits beside the results.
int64_t LogitsStepBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
  const Architecture& arch = plan.model->arch;
  int64_t read = 0, ranked = 0, pieced = 0, whole = 0;
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
    if (row.logits->top_k > 0) ranked += positions;
    if (positions > kPositionsPerStep) pieced = kPositionsPerStep;
  }
  if (read == 0) return 0;
  // Where only the best are wanted: all of them, and their exponentials in float32. Where a row takes several steps: the piece that is then
  // copied to its place.
  const int64_t ranked_step = std::min(ranked, kPositionsPerStep) * arch.vocabulary * (element_size == 4 ? 8 : element_size + 8);
  const int64_t whole_lines = std::min(whole, kPositionsPerStep);
  const int64_t whole_step = whole == 0 ? 0
                                        : whole_lines * arch.vocabulary * (element_size == 4 ? 0 : element_size) +
                                              intervention::VocabularyBytes(whole_lines, compares) * arch.vocabulary;
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
  for (const RowPlan& row : plan.rows) {
    for (const KeepPlan& keep : row.keeps) largest_keep = std::max(largest_keep, Elements(keep.place, row, arch));
    if (row.start) kept += static_cast<int64_t>(row.start->value.nbytes());
    for (const CapturePlan& capture : row.captures)
      if (capture.keep_seconds > 0) peak.handles += CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size));
  }
  for (const std::vector<size_t>& batch : plan.Batches()) {
    int64_t kept_logits = 0, logits = 0;
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      for (const KeepPlan& keep : row.keeps) kept += Elements(keep.place, row, arch) * ElementSize(keep.place, element_size);
      for (const KeepLogitsPlan& keep : row.keep_logits)
        kept_logits += static_cast<int64_t>(keep.positions.size()) * arch.vocabulary * static_cast<int64_t>(sizeof(float));
      for (const CapturePlan& capture : row.captures)
        if (capture.keep_seconds == 0) results += CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size));
      logits += LogitsBytes(row, arch, element_size);
    }
    const int64_t layers = std::max(LayersBytes(plan, batch, element_size, largest_keep), LensBytes(plan, batch, element_size));
    peak.most = std::max(peak.most, kept + results + layers);
    kept += kept_logits;
    results += logits;
    peak.most = std::max(peak.most, kept + results + LogitsStepBytes(plan, batch, element_size));
  }
  for (const RowPlan& row : plan.rows) {
    if (row.gradients.empty()) continue;
    peak.most = std::max(peak.most, kept + results + GradientPeakBytes(row, *plan.model));
    results += GradientResultBytes(row, arch);
  }
  peak.most += peak.handles;
  peak.kept = kept;
  return peak;
}

}  // namespace fluoroscope::run
