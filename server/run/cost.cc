#include "run/cost.h"

#include <algorithm>

#include "run/gradient_peak.h"
#include "run/peak.h"
#include "run/sizes.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;

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

Cost CostOf(const RunPlan& plan) {
  const Architecture& arch = plan.model->arch;
  const int64_t element_size = static_cast<int64_t>(c10::elementSize(plan.model->dtype));
  Cost cost;
  for (const RowPlan& row : plan.rows) {
    for (const CapturePlan& capture : row.captures)
      if (capture.keep_seconds == 0)
        cost.reply_bytes += static_cast<uint64_t>(CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size)));
    cost.reply_bytes += static_cast<uint64_t>(LogitsBytes(row, arch, element_size));
    const double flops = Flops(row, arch);
    cost.flops += flops + GradientFlops(row, arch, flops);
    cost.tokens += static_cast<uint64_t>(row.lines() * (row.gradients.empty() ? 1 : 2));
    cost.reply_bytes += static_cast<uint64_t>(GradientResultBytes(row, arch));
  }
  const Peak peak = PeakOf(plan);
  cost.peak_bytes = static_cast<uint64_t>(peak.most) + kSlackBytes;
  cost.kept_bytes = static_cast<uint64_t>(peak.kept);
  cost.handle_bytes = static_cast<uint64_t>(peak.handles);
  return cost;
}

}  // namespace fluoroscope::run
