// Work that is planned and run piece by piece: what the run of a sweep needs to know of its plan.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/sweep.h"
#include "model/model.h"
#include "run/plan.h"

namespace fluoroscope::sweep {

// A part of the work, small enough to be planned and kept in memory at once.
struct Piece {
  struct Row {
    enum class Is { kBase, kSource, kLender, kCell } is = Is::kCell;  // a lender gives values and has no metrics
    uint32_t pair = 0, cell = 0;
    std::optional<uint32_t> twin = {};  // another cell that is the same change
    bool no_path = false;               // of filled cells: there is nothing to measure, so the value is NaN
  };
  run::RunPlan plan;        // finished; each row's index is its own place
  std::vector<Row> rows;    // what the plan's rows are
  std::vector<Row> filled;  // cells that are their pair's base run, or have no value
  size_t end = 0;           // the first cell of the line that is not in this piece
};

// A piece takes no more rows than this; it bounds what a plan takes in memory, which nobody counts.
inline constexpr size_t kMaxPieceRows = 8192;

// The work of all pairs in one line, in whatever order; a piece begins at a place on it.
struct Pieces {
  size_t cells = 0;
  // The piece that begins there takes what the line has until it has `max_rows` rows; the smallest possible one where `max_rows` is 1.
  std::function<Piece(size_t begin, size_t max_rows)> plan;
  // Whether the cell at a place on the line is finished already; pieces then leave it out. Absent: none is.
  std::function<bool(size_t place)> finished = {};
  // Bytes that the run of a piece may take. One that would take more is made smaller, down to the smallest.
  uint64_t fits = std::numeric_limits<uint64_t>::max();

  // The piece that is run from `begin` on; of at most about `max_rows`.
  Piece Plan(size_t begin, size_t max_rows = kMaxPieceRows) const;

  // The first place from `place` on whose cell is to be run; `cells` when there is none.
  size_t Next(size_t place) const {
    while (finished && place < cells && finished(place)) ++place;
    return place;
  }
};

// What a pair's cells copy at one hook point, where it is not the source run's: a tensor that was there before the run.
struct GivenSource {
  at::Tensor value;                   // the site's axes; on the CPU, nobody writes to it
  std::vector<int64_t> positions;     // of the sequence that it comes from: one for each entry of its position axis, ascending
  std::vector<int64_t> heads, units;  // likewise; empty: all of the site's
  std::string content;                // SHA-256 of the value
};

// Two prompts, resolved. Without a source prompt (handles give the values) `source_ids` and `source_metrics` are empty. Groups and the
// base's metrics are about the base prompt's positions.
struct Pair {
  std::vector<int64_t> base_ids, source_ids;
  std::vector<int64_t> donor_ids;  // whose values are copied; empty: the source's
  std::vector<int64_t> source_of;  // by base position: the source position whose value goes there, -1 for none
  std::map<std::pair<model::Site, int64_t>, GivenSource> given;  // by site and layer; with any, all that cells copy is given
  std::vector<std::vector<int64_t>> groups;                      // places on the position axis: base positions, ascending
  // One per metric, with one position each. What a ToReference compares with is one of these runs, not a kept value.
  std::vector<run::MetricPlan> base_metrics, source_metrics;
  static constexpr intervention::Kept kBaseRun = 0, kSourceRun = 1;
  std::vector<run::EditPlan> base_edits, source_edits;  // of the runs themselves, at the embedding

  // The first position at which the base run differs from the source run, or from the run whose values are copied, before any cell changes
  // anything.
  size_t CommonWithSource() const;
  size_t CommonWithDonor() const;
  // Whether the base run's own embedding at a position is edited.
  bool Edited(int64_t position) const;
};

// What the whole work costs, piece by piece. `model` runs it; every pair has equally many cells.
api::SweepCost CostOf(const Pieces& pieces, const std::shared_ptr<const model::Model>& model, const std::vector<Pair>& pairs);

}  // namespace fluoroscope::sweep
