#include "run/gradient_peak.h"

#include <algorithm>

#include "run/metric_gradient.h"
#include "run/row_gradients.h"
#include "run/sizes.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Site;

bool LooksInside(const Place& place) { return place.site == Site::kAttnScores || place.site == Site::kPattern; }

// What a segment holds at most while it is run again and differentiated, in elements for each token.
int64_t SegmentWidth(const RowPlan& row, int64_t segment, const Architecture& arch) {
  const int64_t d = arch.d_model, q = arch.q_size(), kv = arch.kv_size();
  if (segment == 0) return 3 * d;
  if (segment == 1 + 2 * arch.layers) return 8 * d;
  if (segment % 2 == 0) return 6 * d + (arch.gated_mlp ? 7 : 5) * arch.d_mlp;
  const int64_t layer = (segment - 1) / 2;
  const auto here = [&](const Place& place) { return place.layer == layer && LooksInside(place); };
  const bool is_explicit =
      std::any_of(row.gradients.begin(), row.gradients.end(), [&](const GradientPlan& g) { return here(g.capture.place); }) ||
      std::any_of(row.edits.begin(), row.edits.end(), [&](const EditPlan& edit) { return here(edit.place); });
  return 6 * d + 6 * q + 6 * kv + (is_explicit ? 6 * arch.heads * row.length() + 4 * q : 0);
}

}  // namespace

int64_t GradientResultBytes(const RowPlan& row, const Architecture& arch) {
  int64_t bytes = 0;
  for (const GradientPlan& gradient : row.gradients) bytes += CaptureBytes(gradient.capture, row, arch, sizeof(float));
  return bytes;
}

int64_t GradientPassBytes(const RowPlan& row, const model::Model& model) {
  if (row.gradients.empty()) return 0;
  const Architecture& arch = model.arch;
  const int64_t n = row.length(), element_size = static_cast<int64_t>(c10::elementSize(model.dtype));
  int64_t first = 1 + 2 * arch.layers, last = 0, widest = 0, step = 0;
  for (const BackwardPass& pass : BackwardPasses(row, arch)) {
    first = std::min(first, pass.first);
    last = std::max(last, pass.last);
    const MetricPlan& metric = row.metrics[pass.metric];
    const int64_t lines = std::min<int64_t>(kGradientLines, static_cast<int64_t>(metric.positions.size()));
    if (!std::holds_alternative<intervention::ReadOut>(metric.metric))
      step = std::max(step, DifferentiateBytes(metric.metric, lines, arch, element_size));
  }
  for (int64_t segment = first; segment <= last; ++segment) widest = std::max(widest, SegmentWidth(row, segment, arch));
  const int64_t inputs = std::max<int64_t>(last - first + 1, 1) * n * arch.d_model * element_size;
  return inputs + std::max(n * widest * element_size, step + 2 * n * arch.d_model * element_size);
}

double GradientFlops(const RowPlan& row, const Architecture& arch, double forward) {
  // Forward once; then, for each metric, forward again and as much backward, in values alone.
  return row.gradients.empty() ? 0 : forward * static_cast<double>(1 + 2 * BackwardPasses(row, arch).size());
}

}  // namespace fluoroscope::run
