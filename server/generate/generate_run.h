// A whole generation request as the executor sees it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "api/results.h"
#include "generate/decode_pool.h"
#include "generate/generating_row.h"
#include "generate/plan.h"
#include "generate/prefix_use.h"
#include "generate/prompt_run.h"
#include "run/batch_pool.h"
#include "run/result_writer.h"
#include "run/step_meter.h"
#include "sched/work.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::generate {

// Owns the plan and everything the run holds in memory. First the prompts run, like any forward pass, but for what earlier generations have
// left of their beginnings, beside other requests' rows, and keep their keys and values; then its rows join the model's pool, and a turn of
// this run is a piece of a step for all rows in there. Stepped on the executor's thread; its end is reported to the sink exactly once.
class GenerateRun final : public sched::Work, public DecodeClient {
 public:
  // `metrics`, and what `prefixes` refers to, outlive the run. The header is sent with the first step; the time since `arrived` is reported
  // as time in the queue.
  GenerateRun(GeneratePlan plan, api::ForwardHeader header, std::shared_ptr<DecodePool> pool, std::shared_ptr<api::ForwardSink> sink,
              obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived, PrefixUse prefixes = {},
              std::shared_ptr<run::BatchPool> batching = nullptr);

  void Admitted() override { Begin(); }
  Progress Step() override;
  void Abort(absl::Status why) override;
  void OnDecodeFailed(absl::Status why) override;
  void OnStep(size_t clients, size_t rows) override;

  // The sink may want more. Any thread; to be followed by Executor::Resume. Another run's turn may fill the sink, so this run learns of
  // both in its own turn only.
  void OnDrained() { drained_ = true; }

 private:
  void Begin();
  void Start();
  Progress StepPrompts();
  bool Piece();
  bool StartRow();
  bool LeavePrompt();
  Progress Fail(absl::Status why);
  Progress Sent() const;
  void Succeed();
  void Release();

  GeneratePlan plan_;  // as it was given, but for rows that begin behind a prefix; those let go of it once it is copied
  PrefixUse prefixes_;
  api::ForwardHeader header_;
  const std::shared_ptr<DecodePool> pool_;
  std::shared_ptr<api::ForwardSink> sink_;
  obs::Metrics& metrics_;
  run::ResultWriter out_;
  const std::shared_ptr<run::BatchPool> batching_;
  std::unique_ptr<PromptRun> prompts_;  // until they are done
  std::vector<at::Tensor> kept_;        // of the prompts
  size_t started_rows_ = 0;             // of continuations * samples
  size_t left_prompts_ = 0;             // continuations whose prompts are in the prefix cache, or are not for it
  std::list<GeneratingRow> rows_;       // in the pool until they have finished
  run::StepMeter meter_;
  uint64_t tokens_ = 0;
  bool started_ = false, began_ = false, joined_ = false, succeeded_ = false;
  absl::Status failed_;
  std::atomic<bool> drained_ = false;
  const std::chrono::steady_clock::time_point arrived_;
  double queue_ms_ = 0;
};

}  // namespace fluoroscope::generate
