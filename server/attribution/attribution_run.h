// An attribution as the executor sees it: the scores of pair after pair, then the cells that are verified.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "attribution/pair_scores.h"
#include "run/step_meter.h"
#include "sched/work.h"
#include "sweep/exact_run.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::attribution {

// Stepped on the executor's thread; its end is reported to the sink exactly once.
class AttributionRun final : public sched::Work {
 public:
  AttributionRun(Scoring scoring, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
                 obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived);

  Progress Step() override;
  void Abort(absl::Status why) override;

 private:
  bool StepPair();  // false: all pairs have their scores
  void FinishPair();
  void StartVerification();
  void SendCheck();
  Progress Succeed();

  const Scoring scoring_;
  api::SweepHeader header_;
  const std::vector<std::string> warnings_;
  std::shared_ptr<api::SweepSink> sink_;
  obs::Metrics& metrics_;
  const std::chrono::steady_clock::time_point arrived_;
  run::StepMeter meter_;
  double queue_ms_ = 0;
  bool started_ = false;
  uint64_t tokens_ = 0;

  size_t next_pair_ = 0;
  std::unique_ptr<PairScores> pair_;  // the one at hand
  std::vector<double> mean_;          // [cells, metrics], over pairs

  std::unique_ptr<sweep::ExactRun> exact_;  // the verification, once it has begun
};

}  // namespace fluoroscope::attribution
