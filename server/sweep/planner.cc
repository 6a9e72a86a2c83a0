#include "sweep/planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "run/cost.h"
#include "sweep/piece_builder.h"

namespace fluoroscope::sweep {
namespace {

using model::Part;
using model::Site;

// A piece takes cells until it has its rows or one of these is reached. They bound what a plan takes in memory, which nobody counts, and
// the values that base and source runs keep, which the budget does.
constexpr size_t kMaxIds = size_t{1} << 22;
constexpr size_t kMaxPairs = 256;

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
  const bool given = !pair.given.empty();  // any value, whatever the tokens are
  const std::vector<int64_t>& donor = pair.donor_ids.empty() ? pair.source_ids : pair.donor_ids;
  const bool own_token_only = change.site == Site::kResidPre && change.layers.size() == 1 && change.layers.front() == 0;
  const bool over_keys = model::SpecOf(change.site).axes.back() == model::Axis::kKey && !change.units.empty();
  const size_t common = given ? 0 : pair.CommonWithDonor();
  for (int64_t position : pair.groups[change.group]) {
    const size_t p = static_cast<size_t>(position);
    // No query sees keys behind it, unless somebody gives a pattern in which one does.
    if (over_keys && change.units.front() > position && !(given && change.site == Site::kPattern)) continue;
    if (copies) {
      const int64_t source = pair.source_of[p];
      if (source < 0) continue;
      const bool same_place = source == position;
      if (same_place && p < common) continue;
      if (!given && own_token_only && same_place && donor[p] == pair.base_ids[p] && !pair.Edited(position)) continue;
    }
    altered.push_back(position);
  }
  return altered;
}

// Plans one piece.
class PiecePlanner {
 public:
  PiecePlanner(const SweepPlan& sweep, size_t max_rows) : sweep_(sweep), max_rows_(max_rows), build_(sweep.model) {}

  Piece Plan(size_t begin) {
    for (const std::vector<int64_t>& ids : sweep_.references)
      references_.push_back(build_.NewRow({Piece::Row::Is::kLender, 0, 0}, ids, kRunWave).index);
    const size_t cells = sweep_.grid.cells();
    size_t at = begin, ids = 0, pairs = 0;
    const size_t end_rows = build_.rows() + max_rows_;
    while (at < sweep_.cells() && build_.rows() < end_rows && ids < kMaxIds && pairs < kMaxPairs) {
      const uint32_t pair = sweep_.PairAt(at);
      bool begun = false;  // a pair that is finished is not begun
      for (; at < (pair + 1) * cells && build_.rows() < end_rows && ids < kMaxIds; ++at) {
        const uint32_t cell = sweep_.CellAt(at);
        if (sweep_.LeftOut(pair, cell)) continue;
        if (!std::exchange(begun, true)) Begin(pair);
        Add(pair, cell);
        ids += sweep_.pairs[pair].base_ids.size();
      }
      if (begun) ++pairs;
    }
    return build_.Finish(at);
  }

 private:
  // The runs that a pair's cells draw on.
  void Begin(uint32_t index) {
    const Pair& pair = sweep_.pairs[index];
    runs_ = build_.AddPair(pair, index);
    given_.clear();
    donor_ = runs_.source;
    if (pair.donor_ids.empty()) return;
    donor_ = build_.NewRow({Piece::Row::Is::kLender, index, 0}, pair.donor_ids, kRunWave).index;
    build_.Share(donor_, runs_.trunk, pair.CommonWithDonor());
  }

  std::shared_ptr<const intervention::Mean::Reference> MeanOf(Site site, int64_t layer) {
    std::shared_ptr<intervention::Mean::Reference>& mean = means_[{site, layer}];
    if (mean == nullptr) {
      mean = std::make_shared<intervention::Mean::Reference>();
      for (size_t row : references_) mean->sources.push_back(build_.Keep(row, site, layer));
    }
    return mean;
  }

  void Add(uint32_t index, uint32_t cell) {
    const Pair& pair = sweep_.pairs[index];
    const CellChange change = sweep_.grid.At(cell);
    const Piece::Row meaning{Piece::Row::Is::kCell, index, cell, sweep_.TwinOf(index, cell)};
    const std::vector<int64_t> positions = Altered(sweep_, pair, change);
    std::vector<run::MetricPlan> metrics;  // those that lie behind the change; the others are the base run's
    if (!positions.empty())
      for (const run::MetricPlan& metric : runs_.metrics)
        if (metric.positions.front() >= positions.front()) metrics.push_back(metric);
    if (metrics.empty()) {
      build_.Fill(meaning);
      return;
    }
    const run::Point start = StartOf(change.site, change.layers.front());
    build_.BeginsAt(runs_.trunk, runs_.base, start);
    std::vector<run::EditPlan> edits;
    for (size_t i = 0; i < change.layers.size(); ++i) AddEdits(pair, change, i, positions, edits);
    run::RowPlan& row = build_.NewRow(meaning, pair.base_ids, kCellWave);
    row.fork = run::ForkPlan{runs_.trunk, start, positions.front()};
    row.edits = std::move(edits);
    row.metrics = std::move(metrics);
  }

  // The change in one of its layers.
  void AddEdits(const Pair& pair, const CellChange& change, size_t place, const std::vector<int64_t>& positions,
                std::vector<run::EditPlan>& edits) {
    const int64_t layer = change.layers[place];
    const std::vector<int64_t>& heads = change.HeadsIn(place);
    run::EditPlan edit;
    edit.place = {change.site, layer, positions, heads, change.units};
    switch (sweep_.cell) {
      case api::SweepCell::kPatch:
      case api::SweepCell::kResample: {
        std::vector<int64_t> from;
        for (int64_t position : positions) from.push_back(pair.source_of[static_cast<size_t>(position)]);
        if (pair.given.empty()) {
          build_.Copy(donor_, edit.place, from, edits);
          return;
        }
        edit.edit = CopyGiven(pair.given.at({change.site, layer}), change, layer, from, heads);
        break;
      }
      case api::SweepCell::kZero:
        edit.edit = intervention::Zero{};
        break;
      case api::SweepCell::kMean:
        edit.edit = intervention::Mean{MeanOf(change.site, layer), heads, change.units};
        break;
    }
    edits.push_back(std::move(edit));
  }

  // Positions, heads and units are the model's; the tensor may have only some.
  intervention::Copy CopyGiven(const GivenSource& source, const CellChange& change, int64_t layer, const std::vector<int64_t>& positions,
                               const std::vector<int64_t>& heads) {
    const auto [it, is_new] = given_.try_emplace({change.site, layer}, 0);
    if (is_new) {
      std::vector<int64_t> lines(source.positions.size());
      std::iota(lines.begin(), lines.end(), 0);
      const uint64_t copied = sweep_.model->device.is_cpu() ? 0 : source.value.nbytes();
      it->second = build_.Give({source.value, {change.site, layer, std::move(lines), {}, {}}, 0, copied, source.content});
    }
    return {it->second, PlacesIn(source.positions, positions), PlacesIn(source.heads, heads), PlacesIn(source.units, change.units)};
  }

  const SweepPlan& sweep_;
  const size_t max_rows_;
  PieceBuilder build_;
  // Of the pair that is being planned:
  PieceBuilder::PairRows runs_;
  size_t donor_ = 0;
  std::map<std::pair<Site, int64_t>, size_t> given_;  // keys of what is given
  // Of all pairs:
  std::vector<size_t> references_;
  std::map<std::pair<Site, int64_t>, std::shared_ptr<intervention::Mean::Reference>> means_;
};

}  // namespace

std::optional<uint32_t> SweepPlan::TwinOf(uint32_t pair, uint32_t cell) const {
  const std::optional<size_t> twin = grid.Twin(cell);
  if (!twin) return std::nullopt;
  const auto number = static_cast<uint32_t>(*twin);
  if (finished.Has(pair, number)) return std::nullopt;
  return number;
}

Piece PlanPiece(const SweepPlan& sweep, size_t begin, size_t max_rows) { return PiecePlanner(sweep, max_rows).Plan(begin); }

Pieces PiecesOf(SweepPlan sweep) {
  const auto plan = std::make_shared<const SweepPlan>(std::move(sweep));
  return {plan->cells(), [plan](size_t begin, size_t max_rows) { return PlanPiece(*plan, begin, max_rows); },
          [plan](size_t place) { return plan->LeftOut(plan->PairAt(place), plan->CellAt(place)); }};
}

api::SweepCost CostOf(const SweepPlan& sweep) {
  return CostOf({sweep.cells(), [&](size_t begin, size_t max_rows) { return PlanPiece(sweep, begin, max_rows); }}, sweep.model,
                sweep.pairs);
}

// A cell's own memory is that of the lines of its row, of its layers and of its site, so of each pair and site one cell is the largest.
uint64_t LargestCellBytes(const SweepPlan& sweep) {
  uint64_t most = 0;
  for (size_t index = 0; index < sweep.pairs.size(); ++index) {
    const Pair& pair = sweep.pairs[index];
    std::map<Site, std::pair<std::pair<size_t, size_t>, size_t>> largest;  // layers and lines, then the cell
    for (size_t cell = 0; cell < sweep.grid.cells(); ++cell) {
      const CellChange change = sweep.grid.At(cell);
      const std::vector<int64_t> positions = Altered(sweep, pair, change);
      if (positions.empty()) continue;
      const std::pair size(change.layers.size(), pair.base_ids.size() - static_cast<size_t>(positions.front()));
      auto& found = largest[change.site];
      if (size > found.first) found = {size, cell};
    }
    for (const auto& [_, found] : largest)
      most = std::max(most, run::CostOf(PlanPiece(sweep, index * sweep.grid.cells() + found.second, 1).plan).peak_bytes);
  }
  return most;
}

}  // namespace fluoroscope::sweep
