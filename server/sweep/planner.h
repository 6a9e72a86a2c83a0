// The sweep planner: never compute anything twice. A cell differs from its base run only from its first change on, so it becomes a row that
// forks from the base run there, with only the positions from that one on; a cell that changes nothing is the base run and is not run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "run/plan.h"
#include "sweep/grid.h"

namespace fluoroscope::sweep {

// Two prompts, resolved. Groups and the base's metrics are about the base prompt's positions.
struct Pair {
  std::vector<int64_t> base_ids, source_ids;
  std::vector<int64_t> donor_ids;                             // whose values are copied; empty: the source's
  std::vector<int64_t> source_of;                             // by base position: the source position whose value goes there, -1 for none
  std::vector<std::vector<int64_t>> groups;                   // places on the position axis: base positions, ascending
  std::vector<run::MetricPlan> base_metrics, source_metrics;  // one per metric, with one position each
};

struct SweepPlan {
  std::shared_ptr<const model::Model> model;
  Grid grid;
  api::SweepCell cell = api::SweepCell::kPatch;
  std::vector<Pair> pairs;
  std::vector<std::vector<int64_t>> references = {};  // kMean: prompts over whose positions the mean is taken
  std::vector<uint32_t> chosen = {};                  // only these cells of every pair, ascending; empty: all

  size_t cells_per_pair() const { return chosen.empty() ? grid.cells() : chosen.size(); }
  // The work of all pairs in one line: pair 0's cells, then pair 1's.
  size_t cells() const { return pairs.size() * cells_per_pair(); }
};

// A part of the work, small enough to be planned and kept in memory at once.
struct Piece {
  struct Row {
    enum class Is { kBase, kSource, kLender, kCell } is = Is::kCell;  // a lender gives values and has no metrics
    uint32_t pair = 0, cell = 0;
  };
  run::RunPlan plan;        // finished; each row's index is its own place
  std::vector<Row> rows;    // what the plan's rows are
  std::vector<Row> filled;  // cells that are their pair's base run
  size_t end = 0;           // the first cell of the line that is not in this piece
};

// Plans the cells from `begin` on, as many as one piece may have; at least one.
Piece PlanPiece(const SweepPlan& sweep, size_t begin);

// What the whole sweep costs, piece by piece.
api::SweepCost CostOf(const SweepPlan& sweep);

}  // namespace fluoroscope::sweep
