// A plan on its way: its batches one after the other, and the values that rows keep for each other.
#pragma once

#include <ATen/ATen.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "run/batch_run.h"
#include "run/plan.h"
#include "run/result_writer.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::run {

// A state machine; belongs to one Work, used on the executor's thread. What LibTorch throws passes through.
class PlanRun {
 public:
  // The references outlive it. `plan` is finished.
  PlanRun(const RunPlan& plan, std::string model_name, ResultWriter& out, obs::Metrics& metrics);

  // Does the next small piece. The first takes what the plan was given. False when nothing is left.
  bool Step();

  uint64_t tokens() const { return tokens_; }  // of the batches that have begun

  // What rows have kept, by key; once nothing is left to do.
  std::vector<at::Tensor> TakeKept() { return std::move(kept_); }

 private:
  void TakeGiven();

  const RunPlan& plan_;
  const std::string model_name_;
  ResultWriter& out_;
  obs::Metrics& metrics_;
  std::vector<at::Tensor> kept_;
  std::deque<std::vector<size_t>> batches_;  // still to run
  bool began_ = false;
  std::unique_ptr<BatchRun> batch_;  // running
  uint64_t tokens_ = 0;
};

}  // namespace fluoroscope::run
