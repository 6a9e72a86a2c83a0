#include "sweep/exact_run.h"

#include "sweep/choose_cells.h"

namespace fluoroscope::sweep {

ExactRun::ExactRun(const Plan& plan, size_t pairs, const std::vector<double>& changes, const api::CellChoice& choice,
                   const api::SweepHeader& header, api::SweepSink& sink, obs::Metrics& metrics)
    : chosen_(ChooseCells(changes, header.metrics.size(), choice)), cells_(std::make_shared<CellRecorder>(sink, CellRecorder::As::kExact)) {
  const size_t cells = changes.size() / header.metrics.size();
  run_ = std::make_unique<SweepRun>(plan(FinishedCells::AllBut(chosen_, pairs, cells)), header, std::vector<std::string>(), cells_, metrics,
                                    std::chrono::steady_clock::now());
}

}  // namespace fluoroscope::sweep
