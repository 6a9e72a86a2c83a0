#include "run/plan.h"

#include <algorithm>
#include <set>

namespace fluoroscope::run {
namespace {

Point PointOf(const Place& place, int64_t layers) {
  const model::SiteSpec& spec = model::SpecOf(place.site);
  switch (spec.part) {
    case model::Part::kEmbedding:
      return {-1, spec.part};
    case model::Part::kFinal:
      return {layers, spec.part};
    default:
      return {place.layer, spec.part};
  }
}

void FinishRow(RowPlan& row, int64_t layers) {
  row.stop = Point{};
  std::vector<const Place*> reads;
  for (const CapturePlan& capture : row.captures) reads.push_back(&capture.place);
  for (const KeepPlan& keep : row.keeps) reads.push_back(&keep.place);
  for (const Place* place : reads) row.stop = std::max(row.stop, PointOf(*place, layers));
  if (row.reads_logits()) row.stop = {layers, model::Part::kFinal};

  // The last layer the row enters: what is read behind its keys and values, there or later.
  const int64_t last_layer = std::min(row.stop.layer, layers - 1);
  std::set<int64_t> positions;
  for (const Place* place : reads) {
    const bool there = PointOf(*place, layers).layer >= last_layer && model::SpecOf(place->site).behind_kv;
    if (there) positions.insert(place->positions.begin(), place->positions.end());
  }
  if (row.logits) positions.insert(row.logits->positions.begin(), row.logits->positions.end());
  for (const KeepLogitsPlan& keep : row.keep_logits) positions.insert(keep.positions.begin(), keep.positions.end());
  for (const MetricPlan& metric : row.metrics) positions.insert(metric.positions.begin(), metric.positions.end());
  // A row never becomes empty: attention and hooks need no special case for it.
  if (positions.empty()) positions.insert(row.length() - 1);
  row.last_positions.assign(positions.begin(), positions.end());
}

}  // namespace

void RunPlan::Finish() {
  for (RowPlan& row : rows) FinishRow(row, model->arch.layers);
}

std::vector<std::vector<size_t>> RunPlan::Batches() const {
  std::vector<std::vector<size_t>> batches;
  for (std::vector<size_t> wave : waves) {
    std::stable_sort(wave.begin(), wave.end(), [&](size_t a, size_t b) {
      return std::pair(rows[a].length(), rows[a].first()) < std::pair(rows[b].length(), rows[b].first());
    });
    int64_t tokens = kBatchTokens;
    for (size_t row : wave) {
      if (isolated || tokens + rows[row].lines() > kBatchTokens) {
        batches.emplace_back();
        tokens = 0;
      }
      batches.back().push_back(row);
      tokens += rows[row].lines();
    }
  }
  return batches;
}

}  // namespace fluoroscope::run
