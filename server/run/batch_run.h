// One packed batch on its way through the layers, in small steps.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "model/forward.h"
#include "run/lane.h"
#include "run/lens_run.h"
#include "run/logits_run.h"
#include "run/row_hooks.h"

namespace fluoroscope::run {

// A state machine; belongs to one run or to a BatchPool, used on the executor's thread. What LibTorch throws passes through. Rows that fork
// from another row's run join the batch at their layer, so that all that have begun run a layer together. Rows of several runs (lanes) may
// be in it: they share the matrices, and nothing else.
class BatchRun {
 public:
  // Model and lanes outlive it; a lane may be removed. Rows of equal length lie side by side (SortByLength).
  BatchRun(const model::Model& model, LaneRows rows);

  // Does the next piece: the embedding, half a layer, or a piece of the unembedding. False when nothing is left.
  bool Step();

  // Takes a run's rows out, wherever the batch is; the others go on. False when nothing is left.
  bool Remove(const Lane& lane);

 private:
  bool Advance();  // Step without the lens
  const RowPlan& Row(int64_t slot) const { return *rows_[static_cast<size_t>(slot)].plan; }
  const Lane& LaneOf(int64_t slot) const { return *rows_[static_cast<size_t>(slot)].lane; }
  // Lets the rows that begin at this point into the batch.
  void Join(Point here);
  at::Tensor StartOf(const std::vector<size_t>& slots, const model::PackedRows& joining, Point here) const;
  // The rows that begin with their embedding, with all positions that they compute.
  model::PackedRows Beginning();
  // A trunk that runs in this batch fills its prefix layer by layer, before rows attend there.
  const model::KvPrefix* PrefixOf(const Lane& lane, size_t trunk);
  // Lets rows that need nothing at or behind `next` leave the batch.
  void DropRowsBefore(Point next);
  void KeepOnly(std::vector<model::RowSpan> staying);  // fewer rows than are live
  void EnterLayer();
  void Attention();
  void Mlp();
  // The rows of the batch for which this part of the layer is frozen, or the others. Laid out anew.
  model::PackedRows Part(const model::PackedRows& rows, model::Part part, bool frozen) const;
  // A part of the layer for rows for which it is frozen: x [rows.tokens(), d_model] -> [keep.tokens(), d_model].
  at::Tensor Frozen(model::Part part, const at::Tensor& x, const model::PackedRows& rows, const model::PackedRows& keep);

  const model::Model& model_;
  const LaneRows rows_;  // by slot
  LensRun lens_;         // of captures that are unembedded, before the batch goes on
  RowHooks hooks_;
  std::deque<size_t> waiting_;  // slots of rows that have not begun, in the order in which they will
  std::map<std::pair<const Lane*, size_t>, model::KvPrefix> prefixes_;  // by trunk

  enum class Stage { kEmbed, kAttention, kMlp, kFinalNorm, kLogits };
  Stage stage_ = Stage::kEmbed;
  int64_t layer_ = 0;
  model::Angles angles_;    // of live_
  model::PackedRows live_;  // the rows still in the batch, with the positions they still have
  at::Tensor x_;            // the residual stream, [live_.tokens(), d_model]
  std::unique_ptr<LogitsRun> logits_;
  bool more_ = true;  // Advance has something to do
};

}  // namespace fluoroscope::run
