// A whole forward request as the executor sees it.
#pragma once

#include <chrono>
#include <memory>

#include "api/results.h"
#include "run/plan.h"
#include "run/plan_run.h"
#include "run/result_writer.h"
#include "run/step_meter.h"
#include "sched/work.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::run {

// Owns the plan and everything the run holds in memory. Stepped on the executor's thread; its end is reported to the sink exactly once.
class ForwardRun final : public sched::Work {
 public:
  // The header is sent with the first step. `keeper` is there when a capture is to be kept; its handles are sent before the summary. The
  // time since `arrived` is reported as time in the queue. `metrics` outlives the run.
  ForwardRun(RunPlan plan, api::ForwardHeader header, std::shared_ptr<api::ForwardSink> sink, obs::Metrics& metrics,
             std::chrono::steady_clock::time_point arrived = std::chrono::steady_clock::now(),
             std::unique_ptr<CaptureKeeper> keeper = nullptr);

  Progress Step() override;
  void Abort(absl::Status why) override;

 private:
  void Succeed();

  const RunPlan plan_;
  api::ForwardHeader header_;
  std::shared_ptr<api::ForwardSink> sink_;
  obs::Metrics& metrics_;
  ResultWriter out_;
  std::unique_ptr<CaptureKeeper> keeper_;  // until the end
  std::unique_ptr<PlanRun> run_;           // until the end
  StepMeter meter_;
  bool started_ = false;
  bool succeeded_ = false;
  const std::chrono::steady_clock::time_point arrived_;
  double queue_ms_ = 0;
};

}  // namespace fluoroscope::run
