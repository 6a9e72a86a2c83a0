// Chosen cells of a grid, run exactly at the end of a work whose other values they check.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sweep/cell_recorder.h"
#include "sweep/finished_cells.h"
#include "sweep/sweep_run.h"

namespace fluoroscope::sweep {

// Part of another Work: stepped and ended by it, on the executor's thread.
class ExactRun {
 public:
  // What is run of a grid when some of its cells need no run.
  using Plan = std::function<Pieces(FinishedCells)>;

  // Chooses by `changes` [cells, metrics] (choose_cells.h). Exact cells go to `sink`, which outlives it as `metrics` does.
  ExactRun(const Plan& plan, size_t pairs, const std::vector<double>& changes, const api::CellChoice& choice,
           const api::SweepHeader& header, api::SweepSink& sink, obs::Metrics& metrics);

  sched::Work::Progress Step() { return run_->Step(); }

  // When it is done:
  const absl::Status& status() const { return cells_->status; }
  const std::vector<uint32_t>& chosen() const { return chosen_; }  // ascending
  const CellRecorder& cells() const { return *cells_; }

 private:
  const std::vector<uint32_t> chosen_;
  const std::shared_ptr<CellRecorder> cells_;
  std::unique_ptr<SweepRun> run_;
};

}  // namespace fluoroscope::sweep
