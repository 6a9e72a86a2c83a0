// What planners of pieces share: rows, kept values, and a base run inside which other rows begin.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "model/model.h"
#include "sweep/pieces.h"

namespace fluoroscope::sweep {

// Waves: base and source runs and lenders; what is read of them for comparison; path patching's senders; cells.
inline constexpr size_t kRunWave = 0, kReadWave = 1, kSenderWave = 2, kCellWave = 3;

// Where each of `wanted` stands in `has`, which is ascending and has them all; empty: everything, as it lies.
std::vector<int64_t> PlacesIn(const std::vector<int64_t>& has, const std::vector<int64_t>& wanted);

// Builds one piece; belongs to its planner.
class PieceBuilder {
 public:
  explicit PieceBuilder(std::shared_ptr<const model::Model> model) { piece_.plan.model = std::move(model); }

  // A row that runs in the given wave. The reference lasts until the next row.
  run::RowPlan& NewRow(Piece::Row meaning, const std::vector<int64_t>& ids, size_t wave);
  run::RowPlan& row(size_t index) { return piece_.plan.rows[index]; }
  size_t rows() const { return piece_.plan.rows.size(); }

  // A row's value at a site, at all positions that it computes: the key. The same value is kept once.
  size_t Keep(size_t row, model::Site site, int64_t layer);
  // At some places of it: a key of its own.
  size_t Keep(size_t row, run::Place place);

  // Edits that put a row's values at positions `from` to the positions of `place`. What the row shares with a trunk is the trunk's.
  void Copy(size_t row, const run::Place& place, const std::vector<int64_t>& from, std::vector<run::EditPlan>& edits);

  // The row becomes a trunk, with keys and values of all layers: its index.
  size_t NewTrunk(size_t row);
  run::TrunkPlan& trunk(size_t index) { return piece_.plan.trunks[index]; }
  // Makes a trunk of `row` keep what a row needs that begins at this point.
  void BeginsAt(size_t trunk, size_t row, run::Point start);

  // A row whose first `common` positions are those of a trunk begins behind them, as far as nothing is read of it there. Call when its
  // metrics are set, before anything else is kept of it.
  void Share(size_t row, size_t trunk, size_t common);

  // A row's log-probabilities (or logits) at a position: the key.
  size_t KeepLogits(size_t row, int64_t position, bool log_probabilities);

  // A value that is there from the start: the key.
  size_t Give(run::GivenPlan given);

  // Base and source run of a pair (which may have none), with their metrics; the base run is a trunk, from which the source run takes what
  // both prompts begin with. Metrics that compare with one of
  // these runs are read of rows of their own, in the next wave: a run cannot be compared with what runs beside it.
  struct PairRows {
    size_t base = 0, source = kNone, trunk = 0;
    static constexpr size_t kNone = static_cast<size_t>(-1);
    std::vector<run::MetricPlan> metrics;  // of cells
  };
  PairRows AddPair(const Pair& pair, uint32_t index);

  void Fill(Piece::Row cell) { piece_.filled.push_back(cell); }

  // The finished piece; the builder is used up.
  Piece Finish(size_t end);

 private:
  Piece piece_;
  std::map<size_t, std::vector<size_t>> waves_;
  std::map<std::tuple<size_t, model::Site, int64_t>, size_t> kept_;
  std::map<std::tuple<size_t, int64_t, bool>, size_t> kept_logits_;
  size_t keys_ = 0;
};

}  // namespace fluoroscope::sweep
