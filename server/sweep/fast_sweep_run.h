// A sweep in two runs: all cells with products in bfloat16, then some of them again in the model's own numbers.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/half_products.h"
#include "run/step_meter.h"
#include "sched/work.h"
#include "sweep/exact_run.h"
#include "sweep/sweep_run.h"

namespace fluoroscope::sweep {

// A model's bfloat16 twin, made by the first fast sweep and kept for the next ones. Used on the executor's thread.
struct HalfModel {
  // Asked before it is made; what it answers is kept as long as it is. RESOURCE_EXHAUSTED when there is no room.
  std::function<absl::StatusOr<std::shared_ptr<const void>>()> reserve;
  std::shared_ptr<const void> charge;
  std::shared_ptr<const model::Model> made;
};

// Stepped on the executor's thread; its end is reported to the sink exactly once.
class FastSweepRun final : public sched::Work {
 public:
  struct Plan {
    SweepPlan sweep;  // with the exact model
    api::CellChoice check;
    std::shared_ptr<HalfModel> half;
  };

  // As SweepRun's.
  FastSweepRun(Plan plan, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
               obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived);

  Progress Step() override;
  void Abort(absl::Status why) override;

 private:
  // What is done now; each begins when the one before it has ended well.
  enum class Stage { kConvert, kFast, kExact };

  absl::Status Reserve();  // memory for the twin, if nobody has
  void StartFast();
  void StartExact();
  void SendCheck();
  Progress Succeed();

  const Plan plan_;
  api::SweepHeader header_;
  const std::vector<std::string> warnings_;
  std::shared_ptr<api::SweepSink> sink_;
  obs::Metrics& metrics_;
  const std::chrono::steady_clock::time_point arrived_;

  Stage stage_ = Stage::kConvert;
  std::shared_ptr<const void> charge_;  // the twin's, while this run makes it
  model::HalfProducts making_;
  run::StepMeter conversion_;
  std::shared_ptr<CellRecorder> fast_;
  std::unique_ptr<SweepRun> run_;    // of the fast stage
  std::unique_ptr<ExactRun> exact_;  // of the exact one
};

}  // namespace fluoroscope::sweep
