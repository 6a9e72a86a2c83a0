// One prompt's forward pass with gradients. The pass is cut at every block: each block is differentiated by itself, from the last to the
// first, so that a backward pass is made of short steps like everything else.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "model/forward.h"
#include "model/model.h"

namespace fluoroscope::run {

// Belongs to one Work; used on the executor's thread, inside or outside of inference mode. `model` outlives it.
class GradientRun {
 public:
  struct Options {
    bool with_gradients = false;  // without it is a plain forward pass that keeps values
    bool keeps_keys = false;      // other runs may share its tokens
    // The first `common` tokens are those of `trunk`, a complete run that keeps keys and the same sites, and are not run again. Fewer than
    // the prompt's own; not with sites that have a key axis. The trunk outlives this run.
    const GradientRun* trunk = nullptr;
    int64_t common = 0;
  };

  // Keeps the values of these sites of the blocks, in all layers.
  GradientRun(const model::Model& model, std::vector<int64_t> ids, std::set<model::Site> sites, Options options);
  ~GradientRun();

  // Begins with this as a block's hook_resid_pre, [tokens, d_model], instead of the tokens' embedding; there are no blocks in front of it.
  void BeginWith(at::Tensor resid_pre, int64_t layer = 0);
  // What the pass goes on with at a hook point, in the site's shape, whatever is in front of it; kept like the values of `sites`.
  void Replace(model::Site site, int64_t layer, at::Tensor value);

  // Runs one block, at last the final norm. False when the pass is complete.
  bool StepForward();

  const at::Tensor& resid_pre() const { return first_; }        // the first block's, [tokens, d_model]
  const at::Tensor& normalized() const { return normalized_; }  // what the unembedding multiplies, [tokens, d_model]; once it is complete

  // Starts a backward pass from the gradient of a scalar in normalized(). `last`: no other will follow, so memory is freed on the way.
  void StartBackward(at::Tensor gradient, bool last);
  // Differentiates one block. False when all are done.
  bool StepBackward();
  // After a complete backward pass that was not the last: another one, as if the block `layer` added nothing to the residual and so let no
  // gradient through but its input's own. Behind that block the gradients are the complete pass's. Returns whether there are blocks to
  // step.
  bool StartWithout(int64_t layer);

  // In the site's own shape without a batch axis. Gradients are those of the last backward pass, 0 where the scalar does not depend on it.
  at::Tensor Value(model::Site site, int64_t layer) const;
  at::Tensor Gradient(model::Site site, int64_t layer) const;

  // In the residual behind a block, of the last complete backward pass.
  const at::Tensor& GradientBehind(int64_t layer) const { return behind_[static_cast<size_t>(layer)]; }

  model::Angles angles() const;  // of all positions

 private:
  class Recorder;
  struct Block {
    at::Tensor in, out;
  };
  using Place = std::pair<model::Site, int64_t>;
  using Gradients = std::map<Place, at::Tensor>;

  void Forward();
  at::Tensor Whole(const at::Tensor& trunk, const at::Tensor& own, int64_t axis) const;  // the trunk's common positions, then the own ones
  at::Tensor Differentiate(const Block& block, int64_t layer, const at::Tensor& gradient);

  const model::Model& model_;
  const std::vector<int64_t> ids_;
  const Options options_;
  model::KvPrefix keys_;  // of this run, where others may share them
  std::unique_ptr<Recorder> recorder_;
  model::PackedRows rows_;
  model::Angles angles_;
  at::Tensor begin_, first_, x_, normalized_;
  int64_t begins_at_ = 0;      // the first block that is run
  std::vector<Block> blocks_;  // of all layers from that one on, then the final norm
  int64_t layer_ = 0;
  bool last_ = false;
  Gradients gradients_;
  Gradients complete_;              // of the complete pass, while passes without a block are made
  std::vector<at::Tensor> behind_;  // by block: the complete pass's gradient in its output
};

}  // namespace fluoroscope::run
