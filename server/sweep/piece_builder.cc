#include "sweep/piece_builder.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace fluoroscope::sweep {

using model::Part;
using model::Site;

namespace {

// A row that begins behind a shared front attends with a mask, to all keys, instead of to half of a square; for a front much shorter than
// what follows that costs more than the front.
constexpr int64_t kWorthSharing = 8;

}  // namespace

std::vector<int64_t> PlacesIn(const std::vector<int64_t>& has, const std::vector<int64_t>& wanted) {
  if (has.empty()) return wanted;
  std::vector<int64_t> places;
  for (int64_t one : wanted) places.push_back(std::lower_bound(has.begin(), has.end(), one) - has.begin());
  return places;
}

run::RowPlan& PieceBuilder::NewRow(Piece::Row meaning, const std::vector<int64_t>& ids, size_t wave) {
  waves_[wave].push_back(piece_.plan.rows.size());
  run::RowPlan& row = piece_.plan.rows.emplace_back();
  row.index = static_cast<uint32_t>(piece_.rows.size());
  row.ids = ids;
  piece_.rows.push_back(meaning);
  return row;
}

size_t PieceBuilder::Keep(size_t row, Site site, int64_t layer) {
  const auto [it, is_new] = kept_.try_emplace({row, site, layer}, keys_);
  if (!is_new) return it->second;
  std::vector<int64_t> all(static_cast<size_t>(piece_.plan.rows[row].lines()));
  std::iota(all.begin(), all.end(), piece_.plan.rows[row].first());
  return Keep(row, {site, layer, std::move(all), {}, {}});
}

size_t PieceBuilder::Keep(size_t row, run::Place place) {
  piece_.plan.rows[row].keeps.push_back({std::move(place), keys_});
  return keys_++;
}

void PieceBuilder::Copy(size_t row, const run::Place& place, const std::vector<int64_t>& from, std::vector<run::EditPlan>& edits) {
  const std::optional<run::ForkPlan> fork = this->row(row).fork;
  const int64_t first = fork ? fork->first : 0;
  const auto add = [&](bool shared) {
    run::Place to{place.site, place.layer, {}, place.heads, place.units};
    std::vector<int64_t> lines;
    for (size_t i = 0; i < from.size(); ++i) {
      if ((from[i] < first) != shared) continue;
      to.positions.push_back(place.positions[i]);
      lines.push_back(shared ? from[i] : from[i] - first);
    }
    if (lines.empty()) return;
    const size_t key = Keep(shared ? trunk(fork->trunk).row : row, place.site, place.layer);
    edits.push_back({std::move(to), intervention::Copy{key, std::move(lines), place.heads, place.units}});
  };
  add(/*shared=*/true);
  add(/*shared=*/false);
}

void PieceBuilder::Share(size_t row, size_t trunk, size_t common) {
  run::RowPlan& plan = this->row(row);
  int64_t front = std::min(static_cast<int64_t>(common), plan.length() - 1);
  for (const run::MetricPlan& metric : plan.metrics) front = std::min(front, metric.positions.front());
  for (const run::KeepLogitsPlan& keep : plan.keep_logits) front = std::min(front, keep.positions.front());
  if (front > 0 && front * kWorthSharing >= plan.length() - front) plan.fork = run::ForkPlan{trunk, run::Point{}, front};
}

size_t PieceBuilder::NewTrunk(size_t row) {
  const model::Architecture& arch = piece_.plan.model->arch;
  const size_t index = piece_.plan.trunks.size();
  run::TrunkPlan trunk;
  trunk.row = row;
  trunk.resid_pre.assign(static_cast<size_t>(arch.layers), run::TrunkPlan::kNotKept);
  trunk.resid_mid = trunk.resid_pre;
  const Site keys = arch.positions == model::PositionScheme::kRotary ? Site::kRotK : Site::kK;
  for (int64_t layer = 0; layer < arch.layers; ++layer) {
    trunk.k.push_back(Keep(row, keys, layer));
    trunk.v.push_back(Keep(row, Site::kV, layer));
  }
  piece_.plan.trunks.push_back(std::move(trunk));
  return index;
}

void PieceBuilder::BeginsAt(size_t trunk, size_t row, run::Point start) {
  const bool mlp = start.part == Part::kMlp;
  run::TrunkPlan& plan = piece_.plan.trunks[trunk];
  (mlp ? plan.resid_mid : plan.resid_pre)[static_cast<size_t>(start.layer)] =
      Keep(row, mlp ? Site::kResidMid : Site::kResidPre, start.layer);
}

size_t PieceBuilder::KeepLogits(size_t row, int64_t position, bool log_probabilities) {
  const auto [it, is_new] = kept_logits_.try_emplace({row, position, log_probabilities}, keys_);
  if (!is_new) return it->second;
  piece_.plan.rows[row].keep_logits.push_back({{position}, log_probabilities, keys_});
  return keys_++;
}

size_t PieceBuilder::Give(run::GivenPlan given) {
  given.key = keys_;
  piece_.plan.given.push_back(std::move(given));
  return keys_++;
}

PieceBuilder::PairRows PieceBuilder::AddPair(const Pair& pair, uint32_t index) {
  using Is = Piece::Row::Is;
  using intervention::ToReference;
  const auto compares = [](const run::MetricPlan& metric) { return std::holds_alternative<ToReference>(metric.metric); };
  const bool apart = std::any_of(pair.base_metrics.begin(), pair.base_metrics.end(), compares);
  PairRows rows;
  rows.base = NewRow({apart ? Is::kLender : Is::kBase, index, 0}, pair.base_ids, kRunWave).index;
  row(rows.base).edits = pair.base_edits;
  const bool has_source = !pair.source_ids.empty();
  if (has_source) {
    rows.source = NewRow({apart ? Is::kLender : Is::kSource, index, 0}, pair.source_ids, kRunWave).index;
    row(rows.source).edits = pair.source_edits;
  }
  rows.trunk = NewTrunk(rows.base);
  // Both lists have the same metrics in the same order; only positions differ.
  const auto read = [&](std::vector<run::MetricPlan> metrics) {
    for (size_t i = 0; i < metrics.size(); ++i) {
      auto* to = std::get_if<ToReference>(&metrics[i].metric);
      if (to == nullptr) continue;
      const bool source = to->reference == Pair::kSourceRun;
      to->reference = KeepLogits(source ? rows.source : rows.base, (source ? pair.source_metrics : pair.base_metrics)[i].positions.front(),
                                 to->measure != ToReference::Measure::kL2);
    }
    return metrics;
  };
  rows.metrics = read(pair.base_metrics);
  std::vector<run::MetricPlan> of_source = read(pair.source_metrics);
  const auto share = [&](size_t source) { Share(source, rows.trunk, pair.CommonWithSource()); };
  if (!apart) {
    row(rows.base).metrics = rows.metrics;
    if (!has_source) return rows;
    row(rows.source).metrics = std::move(of_source);
    share(rows.source);
    return rows;
  }
  if (has_source) share(rows.source);
  // The base run's last layer once more, where its metrics are read.
  const run::Point last{piece_.plan.model->arch.layers - 1, Part::kAttention};
  BeginsAt(rows.trunk, rows.base, last);
  run::RowPlan& base = NewRow({Is::kBase, index, 0}, pair.base_ids, kReadWave);
  base.fork = run::ForkPlan{rows.trunk, last, static_cast<int64_t>(pair.base_ids.size()) - 1};
  base.metrics = rows.metrics;
  for (const run::MetricPlan& metric : base.metrics) base.fork->first = std::min(base.fork->first, metric.positions.front());
  if (!has_source) return rows;
  run::RowPlan& source = NewRow({Is::kSource, index, 0}, pair.source_ids, kReadWave);
  source.edits = pair.source_edits;
  source.metrics = std::move(of_source);
  share(source.index);
  return rows;
}

Piece PieceBuilder::Finish(size_t end) {
  piece_.end = end;
  for (auto& [_, rows] : waves_) piece_.plan.waves.push_back(std::move(rows));
  piece_.plan.kept_values = keys_;
  piece_.plan.Finish();
  return std::move(piece_);
}

}  // namespace fluoroscope::sweep
