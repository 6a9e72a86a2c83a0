// The prompts of a generation on their way: by themselves, or in batches with other requests' rows.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "run/batch_pool.h"
#include "run/plan_run.h"
#include "run/result_writer.h"
#include "run/step_meter.h"

namespace fluoroscope::generate {

// Belongs to a GenerateRun, used on the executor's thread. Nothing is thrown. Batches that are small enough go through the model's pool,
// where they share matrices with whatever else waits; the others, and those of isolated runs, run by themselves.
class PromptRun final : private run::BatchClient {
 public:
  // The references outlive it. Without a pool everything runs by itself. `on_begin` is called before a batch of the pool begins.
  PromptRun(const run::RunPlan& plan, const std::string& model_name, run::ResultWriter& out, obs::Metrics& metrics, run::StepMeter& meter,
            std::shared_ptr<run::BatchPool> pool, std::function<void()> on_begin);
  // Takes what it still has in the pool out of there.
  ~PromptRun() override;
  PromptRun(const PromptRun&) = delete;
  PromptRun& operator=(const PromptRun&) = delete;

  // Makes the next batch known to the pool, so that somebody else's turn may run it; nothing, if it is not for the pool or is there
  // already.
  void Enter();

  // A step's time of its batch, or of the pool's. What went wrong is returned once, and it is over then.
  absl::Status Step();

  // The pool has its rows, and runs them whether or not its reader waits.
  bool pooled() const { return pooled_; }
  bool done() const { return !pooled_ && run_.done(); }
  uint64_t tokens() const { return run_.tokens(); }
  std::vector<at::Tensor> TakeKept() { return run_.TakeKept(); }

 private:
  void OnBatchBegin() override { on_begin_(); }
  void OnBatchDone() override;
  void OnBatchFailed(absl::Status why) override;
  void OnApart(std::vector<size_t> rows, std::unique_ptr<run::BatchRun> begun) override;

  const run::RunPlan& plan_;
  run::PlanRun run_;
  run::ResultWriter& out_;
  run::StepMeter& meter_;
  const std::shared_ptr<run::BatchPool> pool_;
  const std::function<void()> on_begin_;
  bool pooled_ = false;
  bool apart_ = false;  // until the batch that was given back has run
  absl::Status failed_;
};

}  // namespace fluoroscope::generate
