// A whole sweep as the executor sees it.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "api/sweep.h"
#include "run/plan_run.h"
#include "run/result_writer.h"
#include "run/step_meter.h"
#include "sched/work.h"
#include "sweep/planner.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::sweep {

// Runs the sweep piece by piece and sends cells as they are done; a pair's references in front of its cells. Stepped on the executor's
// thread; its end is reported to the sink exactly once.
class SweepRun final : public sched::Work {
 public:
  // The header is sent with the first step. `metrics` outlives the run.
  SweepRun(Pieces pieces, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
           obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived);
  SweepRun(SweepPlan plan, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
           obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived);

  // Before the first step, for work whose finished cells an earlier run has sent: so it did the references of these pairs.
  void Resume(std::set<uint32_t> reported) { reported_ = std::move(reported); }

  Progress Step() override;
  void Abort(absl::Status why) override;

 private:
  // A row's metrics on their way in.
  struct Values {
    std::vector<double> values;  // by metric
    size_t missing = 0;
  };

  bool StepPiece();  // false: the whole sweep is done
  void StartPiece();
  void Harvest();  // takes what the run has found out
  void Finished(size_t row);
  void Emit(const Piece::Row& cell, const std::vector<double>& values);
  void Send();
  void Succeed();

  const Pieces pieces_;
  api::SweepHeader header_;
  const std::vector<std::string> warnings_;
  std::shared_ptr<api::SweepSink> sink_;
  obs::Metrics& metrics_;
  std::map<std::string, size_t> metric_index_;
  run::StepMeter meter_;
  const std::chrono::steady_clock::time_point arrived_;
  double queue_ms_ = 0;
  bool started_ = false;
  uint64_t tokens_ = 0;

  // The piece that is running; `run_` refers to `piece_` and `out_`.
  size_t next_cell_ = 0, most_rows_ = kMaxPieceRows;
  Piece piece_;
  std::unique_ptr<run::ResultWriter> out_;
  std::unique_ptr<run::PlanRun> run_;
  std::vector<Values> values_;                             // by row of the piece
  std::map<uint32_t, std::vector<double>> base_, source_;  // by pair of the piece
  std::set<uint32_t> sourced_;                             // pairs of the piece that have a source run
  std::map<uint32_t, api::SweepCells> done_;               // not sent yet
  std::set<uint32_t> reported_;                            // pairs whose references were sent
};

}  // namespace fluoroscope::sweep
