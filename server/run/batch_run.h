// One packed batch on its way through the layers, in small steps.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "model/forward.h"
#include "run/lens_run.h"
#include "run/logits_run.h"
#include "run/plan.h"
#include "run/result_writer.h"
#include "run/row_hooks.h"

namespace fluoroscope::run {

// A state machine; belongs to one run, used on the executor's thread. What LibTorch throws passes through. Rows that fork from another
// row's run join the batch at their layer, so that all that have begun run a layer together.
class BatchRun {
 public:
  // The references outlive it. `rows` are indices into the plan, rows of equal length side by side.
  BatchRun(const RunPlan& plan, std::vector<size_t> rows, std::vector<at::Tensor>& kept, ResultWriter& out);

  // Does the next piece: the embedding, half a layer, or a piece of the unembedding. False when nothing is left.
  bool Step();

 private:
  bool Advance();  // Step without the lens
  const RowPlan& Row(int64_t slot) const { return plan_.rows[rows_[static_cast<size_t>(slot)]]; }
  // Lets the rows that begin at this point into the batch.
  void Join(Point here);
  at::Tensor StartOf(const std::vector<size_t>& slots, const model::PackedRows& joining, Point here) const;
  const model::KvPrefix* PrefixOf(size_t trunk);
  // Lets rows that need nothing at or behind `next` leave the batch.
  void DropRowsBefore(Point next);
  void EnterLayer();
  void Attention();
  void Mlp();
  // The rows of the batch for which this part of the layer is frozen, or the others. Laid out anew.
  model::PackedRows Part(const model::PackedRows& rows, model::Part part, bool frozen) const;
  // A part of the layer for rows for which it is frozen: x [rows.tokens(), d_model] -> [keep.tokens(), d_model].
  at::Tensor Frozen(model::Part part, const at::Tensor& x, const model::PackedRows& rows, const model::PackedRows& keep);

  const RunPlan& plan_;
  std::vector<size_t> rows_;
  std::vector<at::Tensor>& kept_;
  ResultWriter& out_;
  LensRun lens_;  // of captures that are unembedded, before the batch goes on
  RowHooks hooks_;
  std::deque<size_t> waiting_;                  // slots of rows that have not begun, in the order in which they will
  std::map<size_t, model::KvPrefix> prefixes_;  // by trunk

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
