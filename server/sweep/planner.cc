#include "sweep/planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "run/cost.h"

namespace fluoroscope::sweep {
namespace {

using model::Part;
using model::Site;

// A piece takes cells until one of these is reached. They bound what a plan takes in memory, which nobody counts, and the values that
// base and source runs keep, which the budget does.
constexpr size_t kMaxRows = 8192;
constexpr size_t kMaxIds = size_t{1} << 22;
constexpr size_t kMaxPairs = 256;

std::vector<int64_t> UpTo(int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// The point of the base run from which a change at this site is felt.
run::Point StartOf(Site site, int64_t layer) {
  if (site == Site::kResidMid || model::SpecOf(site).part == Part::kMlp) return {layer, Part::kMlp};
  return {layer, Part::kAttention};
}

// The positions of a group whose value the change can alter. A copied value is the same as the base's own when all tokens up to it are,
// and in the first block's input already when its own token is: causality decides, not a comparison of floats.
std::vector<int64_t> Altered(const SweepPlan& sweep, const Pair& pair, const CellChange& change) {
  std::vector<int64_t> altered;
  const bool copies = sweep.cell == api::SweepCell::kPatch || sweep.cell == api::SweepCell::kResample;
  const std::vector<int64_t>& donor = pair.donor_ids.empty() ? pair.source_ids : pair.donor_ids;
  const bool own_token_only = change.site == Site::kResidPre && change.layers.size() == 1 && change.layers.front() == 0;
  const bool over_keys = model::SpecOf(change.site).axes.back() == model::Axis::kKey && !change.units.empty();
  const size_t common = static_cast<size_t>(std::mismatch(pair.base_ids.begin(), pair.base_ids.end(), donor.begin(), donor.end()).first -
                                            pair.base_ids.begin());
  for (int64_t position : pair.groups[change.group]) {
    const size_t p = static_cast<size_t>(position);
    if (over_keys && change.units.front() > position) continue;  // no query sees keys behind it
    if (copies) {
      const int64_t source = pair.source_of[p];
      if (source < 0) continue;
      const bool same_place = source == position;
      if (same_place && p < common) continue;
      if (own_token_only && same_place && donor[p] == pair.base_ids[p]) continue;
    }
    altered.push_back(position);
  }
  return altered;
}

// Plans one piece.
class PiecePlanner {
 public:
  explicit PiecePlanner(const SweepPlan& sweep) : sweep_(sweep), arch_(sweep.model->arch) { piece_.plan.model = sweep.model; }

  Piece Plan(size_t begin) {
    for (const std::vector<int64_t>& ids : sweep_.references)
      references_.push_back(NewRow({Piece::Row::Is::kLender, 0, 0}, ids, first_wave_).index);
    const size_t cells = sweep_.cells_per_pair();
    size_t at = begin, ids = 0, pairs = 0;
    while (at < sweep_.cells() && piece_.plan.rows.size() < kMaxRows && ids < kMaxIds && pairs < kMaxPairs) {
      const uint32_t pair = static_cast<uint32_t>(at / cells);
      Begin(pair);
      ++pairs;
      for (; at < (pair + 1) * cells && piece_.plan.rows.size() < kMaxRows && ids < kMaxIds; ++at) {
        Add(pair, sweep_.chosen.empty() ? static_cast<uint32_t>(at % cells) : sweep_.chosen[at % cells]);
        ids += sweep_.pairs[pair].base_ids.size();
      }
    }
    piece_.end = at;
    piece_.plan.waves = {first_wave_};
    if (!second_wave_.empty()) piece_.plan.waves.push_back(second_wave_);
    piece_.plan.kept_values = keys_;
    piece_.plan.Finish();
    return std::move(piece_);
  }

 private:
  run::RowPlan& NewRow(Piece::Row meaning, const std::vector<int64_t>& ids, std::vector<size_t>& wave) {
    wave.push_back(piece_.plan.rows.size());
    run::RowPlan& row = piece_.plan.rows.emplace_back();
    row.index = static_cast<uint32_t>(piece_.rows.size());
    row.ids = ids;
    piece_.rows.push_back(meaning);
    return row;
  }

  // The runs that a pair's cells draw on.
  void Begin(uint32_t index) {
    const Pair& pair = sweep_.pairs[index];
    base_ = NewRow({Piece::Row::Is::kBase, index, 0}, pair.base_ids, first_wave_).index;
    source_ = NewRow({Piece::Row::Is::kSource, index, 0}, pair.source_ids, first_wave_).index;
    piece_.plan.rows[base_].metrics = pair.base_metrics;
    piece_.plan.rows[source_].metrics = pair.source_metrics;
    donor_ = pair.donor_ids.empty() ? source_ : NewRow({Piece::Row::Is::kLender, index, 0}, pair.donor_ids, first_wave_).index;
    donor_keys_.clear();
    trunk_ = piece_.plan.trunks.size();
    const size_t layers = static_cast<size_t>(arch_.layers);
    run::TrunkPlan& trunk = piece_.plan.trunks.emplace_back();
    trunk.resid_pre.assign(layers, run::TrunkPlan::kNotKept);
    trunk.resid_mid.assign(layers, run::TrunkPlan::kNotKept);
    const Site keys = arch_.positions == model::PositionScheme::kRotary ? Site::kRotK : Site::kK;
    for (int64_t layer = 0; layer < arch_.layers; ++layer) {
      trunk.k.push_back(Keep(base_, keys, layer));
      trunk.v.push_back(Keep(base_, Site::kV, layer));
    }
  }

  // A row's value at a site, at all its positions.
  size_t Keep(size_t row, Site site, int64_t layer) {
    run::RowPlan& plan = piece_.plan.rows[row];
    plan.keeps.push_back({{site, layer, UpTo(plan.length()), {}, {}}, keys_});
    return keys_++;
  }

  size_t KeepDonor(Site site, int64_t layer) {
    const auto [it, is_new] = donor_keys_.try_emplace({site, layer}, keys_);
    if (is_new) Keep(donor_, site, layer);
    return it->second;
  }

  std::shared_ptr<const intervention::Mean::Reference> MeanOf(Site site, int64_t layer) {
    std::shared_ptr<intervention::Mean::Reference>& mean = means_[{site, layer}];
    if (mean == nullptr) {
      mean = std::make_shared<intervention::Mean::Reference>();
      for (size_t row : references_) mean->sources.push_back(Keep(row, site, layer));
    }
    return mean;
  }

  void Add(uint32_t index, uint32_t cell) {
    const Pair& pair = sweep_.pairs[index];
    const CellChange change = sweep_.grid.At(cell);
    const std::vector<int64_t> positions = Altered(sweep_, pair, change);
    std::vector<run::MetricPlan> metrics;  // those that lie behind the change; the others are the base run's
    if (!positions.empty())
      for (const run::MetricPlan& metric : pair.base_metrics)
        if (metric.positions.front() >= positions.front()) metrics.push_back(metric);
    if (metrics.empty()) {
      piece_.filled.push_back({Piece::Row::Is::kCell, index, cell});
      return;
    }
    const run::Point start = StartOf(change.site, change.layers.front());
    run::TrunkPlan& trunk = piece_.plan.trunks[trunk_];
    size_t& kept = (start.part == Part::kMlp ? trunk.resid_mid : trunk.resid_pre)[static_cast<size_t>(start.layer)];
    if (kept == run::TrunkPlan::kNotKept) kept = Keep(base_, start.part == Part::kMlp ? Site::kResidMid : Site::kResidPre, start.layer);
    std::vector<run::EditPlan> edits;
    for (int64_t layer : change.layers) edits.push_back(Edit(pair, change, layer, positions));
    run::RowPlan& row = NewRow({Piece::Row::Is::kCell, index, cell}, pair.base_ids, second_wave_);
    row.fork = run::ForkPlan{trunk_, start, positions.front()};
    row.edits = std::move(edits);
    row.metrics = std::move(metrics);
  }

  run::EditPlan Edit(const Pair& pair, const CellChange& change, int64_t layer, const std::vector<int64_t>& positions) {
    run::EditPlan edit;
    edit.place = {change.site, layer, positions, change.heads, change.units};
    switch (sweep_.cell) {
      case api::SweepCell::kPatch:
      case api::SweepCell::kResample: {
        intervention::Copy copy;
        copy.source = KeepDonor(change.site, layer);
        for (int64_t position : positions) copy.lines.push_back(pair.source_of[static_cast<size_t>(position)]);
        copy.heads = change.heads;
        copy.units = change.units;
        edit.edit = std::move(copy);
        break;
      }
      case api::SweepCell::kZero:
        edit.edit = intervention::Zero{};
        break;
      case api::SweepCell::kMean:
        edit.edit = intervention::Mean{MeanOf(change.site, layer), change.heads, change.units};
        break;
    }
    return edit;
  }

  const SweepPlan& sweep_;
  const model::Architecture& arch_;
  Piece piece_;
  std::vector<size_t> first_wave_, second_wave_;
  size_t keys_ = 0;
  // Of the pair that is being planned:
  size_t base_ = 0, source_ = 0, donor_ = 0, trunk_ = 0;
  std::map<std::pair<Site, int64_t>, size_t> donor_keys_;
  // Of all pairs:
  std::vector<size_t> references_;
  std::map<std::pair<Site, int64_t>, std::shared_ptr<intervention::Mean::Reference>> means_;
};

}  // namespace

Piece PlanPiece(const SweepPlan& sweep, size_t begin) { return PiecePlanner(sweep).Plan(begin); }

api::SweepCost CostOf(const SweepPlan& sweep) {
  api::SweepCost cost;
  cost.cells = sweep.cells();
  double base_flops = 0;  // one whole forward of each pair's base
  for (size_t at = 0; at < sweep.cells();) {
    const Piece piece = PlanPiece(sweep, at);
    const run::Cost run = run::CostOf(piece.plan);
    cost.flops += run.flops;
    cost.peak_bytes = std::max(cost.peak_bytes, run.peak_bytes);
    cost.filled_cells += piece.filled.size();
    at = piece.end;
  }
  for (const Pair& pair : sweep.pairs) {
    run::RunPlan forward;
    forward.model = sweep.model;
    run::RowPlan& row = forward.rows.emplace_back();
    row.ids = pair.base_ids;
    row.metrics = pair.base_metrics;
    forward.waves = {{0}};
    forward.Finish();
    base_flops += run::CostOf(forward).flops;
  }
  cost.forwards_flops = base_flops * static_cast<double>(sweep.cells_per_pair());
  return cost;
}

}  // namespace fluoroscope::sweep
