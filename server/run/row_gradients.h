// The gradients of one row's metrics. The row runs once more by itself, in segments: the embedding, each layer's two parts, the final norm.
// Only the segments' inputs are held; on the way back each segment is run again, with a graph of its own, and differentiated.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <vector>

#include "model/forward.h"
#include "run/gradient_hooks.h"
#include "run/lane.h"

namespace fluoroscope::run {

// The segment that a place lies in: 0 the embedding, 1 + 2 * layer its attention, 2 + 2 * layer its MLP, 1 + 2 * layers the final norm.
int64_t SegmentOf(const RowPlan& row, model::Site site, int64_t layer, const model::Architecture& arch);

// A metric that is differentiated, and the segments that takes.
struct BackwardPass {
  size_t metric = 0;  // index into the row's
  int64_t first = 0;  // of the segments with captures, the first
  int64_t last = 0;   // the metric's own: the final norm, or that of a read-out's place
};
std::vector<BackwardPass> BackwardPasses(const RowPlan& row, const model::Architecture& arch);

// A read-out's place.
const Place& ReadOutPlace(const RowPlan& row, const intervention::ReadOut& read);

// A state machine; belongs to one run, used on the executor's thread, inside or outside of inference mode. What LibTorch throws passes
// through. The row's batches and those it reads from have run, so all that they kept is there.
class RowGradients {
 public:
  // Model and lane outlive it. `row` has gradients.
  RowGradients(const model::Model& model, const Lane& lane, const RowPlan& row);

  // Does the next piece: a segment forward, some lines of a metric, a segment backward. False when nothing is left.
  bool Step();

 private:
  enum class Stage { kForward, kMetric, kBackward };

  // The segment's output. `input` is undefined for the embedding.
  at::Tensor Run(int64_t segment, const at::Tensor& input);
  void StepForward();
  void StepMetric();
  void StepBackward();
  // What is sent of a segment: `gradients` by place; zeros where it has none.
  void Send(int64_t segment, const std::map<HookPlace, at::Tensor>& gradients);
  at::Tensor Zeros(const Place& place) const;
  const BackwardPass& pass() const { return passes_[pass_]; }
  const MetricPlan& metric() const { return row_.metrics[pass().metric]; }

  const model::Model& model_;
  const Lane& lane_;
  const RowPlan& row_;
  GradientHooks hooks_;
  const model::PackedRows rows_;
  const model::Angles angles_;
  const std::vector<BackwardPass> passes_;
  const int64_t first_, last_;      // of all passes
  std::vector<at::Tensor> inputs_;  // by segment
  at::Tensor normalized_;           // the last segment's output, when that is the final norm

  Stage stage_ = Stage::kForward;
  int64_t segment_ = 0;
  size_t pass_ = 0;
  int64_t next_position_ = 0;  // of the metric
  at::Tensor gradient_;        // in the output of the segment at hand; undefined where the metric does not read that
};

}  // namespace fluoroscope::run
