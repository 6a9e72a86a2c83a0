// The sweep planner: never compute anything twice. A cell differs from its base run only from its first change on, so it becomes a row that
// forks from the base run there, with only the positions from that one on; a cell that changes nothing is the base run and is not run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/model.h"
#include "run/plan.h"
#include "sweep/finished_cells.h"
#include "sweep/grid.h"
#include "sweep/pieces.h"

namespace fluoroscope::sweep {

struct SweepPlan {
  std::shared_ptr<const model::Model> model;
  Grid grid;
  api::SweepCell cell = api::SweepCell::kPatch;
  std::vector<Pair> pairs;
  std::vector<std::vector<int64_t>> references = {};  // kMean: prompts over whose positions the mean is taken
  FinishedCells finished = {};                        // left out

  // The work of all pairs in one line: pair 0's cells, then pair 1's.
  size_t cells() const { return pairs.size() * grid.cells(); }
  uint32_t PairAt(size_t place) const { return static_cast<uint32_t>(place / grid.cells()); }
  uint32_t CellAt(size_t place) const { return static_cast<uint32_t>(place % grid.cells()); }
  // Another cell that is the same change and is wanted too: only the first of both is run.
  std::optional<uint32_t> TwinOf(uint32_t pair, uint32_t cell) const;
  // Whether a cell needs no place in a piece: it is finished, or comes with its twin.
  bool LeftOut(uint32_t pair, uint32_t cell) const { return finished.Has(pair, cell) || TwinOf(pair, cell).value_or(cell) < cell; }
};

// Plans the cells from `begin` on, as many as one piece may have; at least one when the one at `begin` is not finished.
Piece PlanPiece(const SweepPlan& sweep, size_t begin, size_t max_rows = kMaxPieceRows);

// The sweep's pieces, which own the plan.
Pieces PiecesOf(SweepPlan sweep);

// What the whole sweep costs.
api::SweepCost CostOf(const SweepPlan& sweep);

// The most bytes that any of its cells takes when it is run by itself, in the smallest piece.
uint64_t LargestCellBytes(const SweepPlan& sweep);

}  // namespace fluoroscope::sweep
