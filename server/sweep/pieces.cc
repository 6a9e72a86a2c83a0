#include "sweep/pieces.h"

#include <algorithm>
#include <initializer_list>

#include "run/cost.h"

namespace fluoroscope::sweep {

namespace {

// Positions at the front with the same tokens, as far as no edit is made there.
size_t CommonOf(const std::vector<int64_t>& a, const std::vector<int64_t>& b,
                std::initializer_list<const std::vector<run::EditPlan>*> edits) {
  size_t common = static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  for (const auto* of_run : edits)
    for (const run::EditPlan& edit : *of_run) common = std::min(common, static_cast<size_t>(edit.place.positions.front()));
  return common;
}

}  // namespace

size_t Pair::CommonWithSource() const { return CommonOf(base_ids, source_ids, {&base_edits, &source_edits}); }

size_t Pair::CommonWithDonor() const {
  return donor_ids.empty() ? CommonWithSource() : CommonOf(base_ids, donor_ids, {&base_edits});  // lenders run without edits
}

bool Pair::Edited(int64_t position) const {
  for (const auto* edits : {&base_edits, &source_edits})
    for (const run::EditPlan& edit : *edits)
      if (std::binary_search(edit.place.positions.begin(), edit.place.positions.end(), position)) return true;
  return false;
}

Piece Pieces::Plan(size_t begin, size_t max_rows) const {
  Piece piece = plan(begin, max_rows);
  if (fits == std::numeric_limits<uint64_t>::max()) return piece;
  for (size_t rows = piece.rows.size() / 2; rows > 0 && run::CostOf(piece.plan).peak_bytes > fits; rows /= 2) piece = plan(begin, rows);
  return piece;
}

api::SweepCost CostOf(const Pieces& pieces, const std::shared_ptr<const model::Model>& model, const std::vector<Pair>& pairs) {
  api::SweepCost cost;
  cost.cells = pieces.cells;
  for (size_t at = 0; at < pieces.cells;) {
    const Piece piece = pieces.Plan(at);
    const run::Cost run = run::CostOf(piece.plan);
    cost.flops += run.flops;
    cost.peak_bytes = std::max(cost.peak_bytes, run.peak_bytes);
    for (const Piece::Row& cell : piece.filled) cost.filled_cells += cell.twin ? 2 : 1;
    at = piece.end;
  }
  double base_flops = 0;  // one whole forward of each pair's base
  for (const Pair& pair : pairs) {
    run::RunPlan forward;
    forward.model = model;
    run::RowPlan& row = forward.rows.emplace_back();
    row.ids = pair.base_ids;
    row.metrics = pair.base_metrics;
    forward.waves = {{0}};
    forward.Finish();
    base_flops += run::CostOf(forward).flops;
  }
  cost.forwards_flops = base_flops * static_cast<double>(pieces.cells / std::max<size_t>(1, pairs.size()));
  return cost;
}

}  // namespace fluoroscope::sweep
