// The logit lens: captured values go through the final norm and the unembedding, a bounded piece a step.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <deque>

#include "model/model.h"
#include "run/joined_lines.h"
#include "run/lane.h"

namespace fluoroscope::run {

// Belongs to a BatchRun; used on the executor's thread. Values wait here only until the batch's next steps, so that of a whole lens one
// layer's are held at a time.
class LensRun {
 public:
  explicit LensRun(const model::Model& model) : model_(model) {}

  // `value` [positions, (heads,) d_model] is this object's from now on. Row and capture outlive it, or are removed.
  void Add(const LaneRow& row, const CapturePlan& capture, at::Tensor value);

  // Forgets the values of this run's rows.
  void Remove(const Lane& lane);

  bool waiting() const { return !jobs_.empty(); }

  // Unembeds at most kPositionsPerStep vectors of the capture that waits longest; hands it out when it is complete.
  void Step();

 private:
  struct Job {
    LaneRow row;
    const CapturePlan* capture;
    at::Tensor value;
    int64_t next = 0;                  // vector
    std::array<JoinedLines, 3> parts;  // tokens (of top_k), logits, log-probabilities
  };

  const model::Model& model_;
  std::deque<Job> jobs_;
};

}  // namespace fluoroscope::run
