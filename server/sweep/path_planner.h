// The planner of path patching: a grid of receivers by senders, each cell exact (proto/fluoroscope/v1/path.proto says what a cell is).
//
// Senders are rows that fork from the base run at the sender's layer. Behind it attention is frozen, so they have no keys and values there
// and take only MLPs (unless frozen) and norms; in passing they keep what the receivers would read. Every cell is then a row that forks
// from the base run at its receiver's layer with that put in place. Cells whose sender says nothing new are the base
// run; those whose sender lies behind their receiver have no value.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sweep/finished_cells.h"
#include "sweep/pieces.h"

namespace fluoroscope::sweep {

// Senders: kZ (heads), kMlpOut, kEmbed. Receivers: kQ, kK, kV, kMlpIn, kLnFinalNormalized (stands for the logits).
struct PathNode {
  model::Site site = model::Site::kZ;
  int64_t layer = 0;
  std::vector<int64_t> heads;  // ascending; all that act, listed; empty where the site has none
};

// Whether a sender's output can enter what a receiver reads: it lies in front of it. Everything behind the embedding does hear that, and
// the logits hear everybody.
bool Reaches(model::Site sender, int64_t from, model::Site receiver, int64_t to);

// Nodes that act together.
struct PathEnd {
  std::vector<PathNode> nodes;                  // at least one; the logits alone
  std::vector<std::vector<int64_t>> positions;  // by pair: of the base prompt, ascending
  bool logits() const { return nodes.front().site == model::Site::kLnFinalNormalized; }
};

// Whether some node of the sender reaches some node of the receiver. Where none does the model has no such path: the cell's value is NaN,
// not the base run's, which would say that the path does nothing.
bool HasPath(const PathEnd& sender, const PathEnd& receiver);

struct PathPlan {
  std::shared_ptr<const model::Model> model;
  std::vector<Pair> pairs;  // without groups, donors and edits
  std::vector<PathEnd> senders, receivers;
  bool freeze_mlps = false, freeze_norms = false;
  FinishedCells finished = {};  // left out

  size_t cells() const { return pairs.size() * senders.size() * receivers.size(); }
  // The line goes pair by pair and sender by sender; cells are numbered receiver * senders + sender.
  uint32_t PairAt(size_t place) const { return static_cast<uint32_t>(place / (receivers.size() * senders.size())); }
  uint32_t SenderAt(size_t place) const { return static_cast<uint32_t>(place / receivers.size() % senders.size()); }
  uint32_t CellOf(size_t receiver, size_t sender) const { return static_cast<uint32_t>(receiver * senders.size() + sender); }
  uint32_t CellAt(size_t place) const { return CellOf(place % receivers.size(), SenderAt(place)); }
  bool FinishedAt(size_t place) const { return finished.Has(PairAt(place), CellAt(place)); }
};

// Plans all receivers of some senders, from the sender at `begin` of the line on.
Piece PlanPaths(const PathPlan& paths, size_t begin, size_t max_rows = kMaxPieceRows);

Pieces PiecesOf(PathPlan paths);
api::SweepCost CostOf(const PathPlan& paths);

// The most bytes that all cells of any sender take when they are run by themselves, in the smallest piece.
uint64_t LargestSenderBytes(const PathPlan& paths);

}  // namespace fluoroscope::sweep
