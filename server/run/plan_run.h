// A plan on its way: its batches one after the other, and the values that rows keep for each other.
#pragma once

#include <ATen/ATen.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "run/batch_run.h"
#include "run/lane.h"
#include "run/plan.h"
#include "run/result_writer.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::run {

// A state machine; belongs to one Work, used on the executor's thread. What LibTorch throws passes through. It runs its batches by itself
// (Step), or hands one out between two of them (TakeBatch), to be run beside other runs' rows.
class PlanRun {
 public:
  // The references outlive it. `plan` is finished.
  PlanRun(const RunPlan& plan, std::string model_name, ResultWriter& out, obs::Metrics& metrics);

  // Does the next small piece. False when nothing is left.
  bool Step();

  // Whether a batch is to begin, and how many lines it has.
  bool between() const { return batch_ == nullptr && !batches_.empty(); }
  int64_t next_lines() const;
  // Whether it is one for a pool.
  bool next_pools() const;

  // The rows of the batch that is to begin. Somebody else runs them; or GiveBack.
  // The first batch, however it is run, takes the plan's given values with it.
  std::vector<size_t> TakeBatch();
  // This run is to run the rows that were taken: from where `begun` is, which has no others, or from their start.
  void GiveBack(std::vector<size_t> rows, std::unique_ptr<BatchRun> begun);

  bool done() const { return batch_ == nullptr && batches_.empty(); }
  const Lane& lane() const { return lane_; }
  uint64_t tokens() const { return tokens_; }  // of the batches that have begun or were taken

  // What rows have kept, by key; once nothing is left to do.
  std::vector<at::Tensor> TakeKept() { return std::move(kept_); }

 private:
  void TakeGiven();

  const RunPlan& plan_;
  const std::string model_name_;
  obs::Metrics& metrics_;
  std::vector<at::Tensor> kept_;
  const Lane lane_;
  std::deque<std::vector<size_t>> batches_;  // still to run
  bool began_ = false;
  std::unique_ptr<BatchRun> batch_;  // running
  uint64_t tokens_ = 0;
  int64_t results_ = 0;  // bytes, of the batches that have begun or were taken
};

}  // namespace fluoroscope::run
