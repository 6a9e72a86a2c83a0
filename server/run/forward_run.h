// A whole forward request as the executor sees it.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "api/results.h"
#include "run/batch_pool.h"
#include "run/captured_gradients.h"
#include "run/plan.h"
#include "run/plan_run.h"
#include "run/result_writer.h"
#include "run/step_meter.h"
#include "sched/work.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::run {

// Owns the plan and everything the run holds in memory. Its batches go through the model's pool, where they share matrices with other
// requests' rows, unless they are large or the request is isolated: those it runs by itself. Stepped on the executor's thread; its end is
// reported to the sink exactly once.
class ForwardRun final : public sched::Work, private BatchClient {
 public:
  // The header is sent with the first result, or soon when that takes long. The time since `arrived` is reported as time in the queue.
  // `metrics` outlives the run. Without a pool it runs by itself. `keeper` is there when a capture is to be kept; its handles are sent
  // before the summary.
  ForwardRun(RunPlan plan, api::ForwardHeader header, std::shared_ptr<api::ForwardSink> sink, obs::Metrics& metrics,
             std::chrono::steady_clock::time_point arrived = std::chrono::steady_clock::now(), std::shared_ptr<BatchPool> pool = nullptr,
             std::unique_ptr<CaptureKeeper> keeper = nullptr);

  void Admitted() override { (void)EnterPool(); }
  Progress Step() override;
  void Abort(absl::Status why) override;

  // The sink may want more. Any thread; to be followed by Executor::Resume. Another run's turn may fill the sink, so this run learns of it
  // in its own turn only.
  void OnDrained() { drained_ = true; }

 private:
  void OnBatchBegin() override { Start(); }
  void OnBatchDone() override;
  void OnBatchFailed(absl::Status why) override { Fail(std::move(why)); }
  void OnApart(std::vector<size_t> rows, std::unique_ptr<BatchRun> begun) override;

  // Takes the next batch to the pool, if it is one for it. True as well when that failed, which ends the run.
  bool EnterPool();
  Progress StepOnce();
  bool StepOwn();  // a piece of what this run does by itself; false at the end of a batch and of everything
  bool ReaderWaits();
  Progress Ended() const;
  void Start();
  void Succeed();
  void Fail(absl::Status why);
  void LetGo();  // of all that an unsuccessful run still holds

  const RunPlan plan_;
  api::ForwardHeader header_;
  std::shared_ptr<api::ForwardSink> sink_;
  obs::Metrics& metrics_;
  ResultWriter out_;
  std::unique_ptr<CaptureKeeper> keeper_;         // until the end
  std::unique_ptr<PlanRun> run_;                  // until the end
  std::unique_ptr<CapturedGradients> gradients_;  // until the end; they begin when run_ is done
  StepMeter meter_;
  const std::shared_ptr<BatchPool> pool_;
  bool pooled_ = false;  // the pool has rows of this run
  bool apart_ = false;   // until the batch that was given back has run
  bool started_ = false, ended_ = false, failed_ = false;
  std::atomic<bool> drained_ = false;
  const std::chrono::steady_clock::time_point arrived_;
  std::chrono::steady_clock::time_point began_;
  double queue_ms_ = 0;
};

}  // namespace fluoroscope::run
