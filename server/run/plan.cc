#include "run/plan.h"

#include <algorithm>
#include <map>
#include <optional>
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
  const auto sort = [this](std::vector<size_t>& some) {
    std::stable_sort(some.begin(), some.end(), [this](size_t a, size_t b) {
      return std::pair(rows[a].length(), rows[a].first()) < std::pair(rows[b].length(), rows[b].first());
    });
  };
  std::vector<std::vector<size_t>> batches;
  for (const std::vector<size_t>& wave : waves) {
    const std::set<size_t> all(wave.begin(), wave.end());
    std::vector<size_t> leaders;
    std::map<size_t, std::vector<size_t>> beside;  // by the trunk's row
    for (size_t row : wave) {
      const std::optional<ForkPlan>& fork = rows[row].fork;
      if (fork && fork->at == Point{} && all.contains(trunks[fork->trunk].row))
        beside[trunks[fork->trunk].row].push_back(row);
      else
        leaders.push_back(row);
    }
    sort(leaders);
    const size_t first = batches.size();
    int64_t tokens = kBatchTokens;
    for (size_t leader : leaders) {
      std::vector<size_t> together = {leader};
      if (const auto it = beside.find(leader); it != beside.end()) together.insert(together.end(), it->second.begin(), it->second.end());
      int64_t lines = 0;
      for (size_t row : together) lines += rows[row].lines();
      if (isolated || tokens + lines > kBatchTokens) {
        batches.emplace_back();
        tokens = 0;
      }
      batches.back().insert(batches.back().end(), together.begin(), together.end());
      tokens += lines;
    }
    if (!beside.empty()) std::for_each(batches.begin() + static_cast<int64_t>(first), batches.end(), sort);
  }
  return batches;
}

}  // namespace fluoroscope::run
