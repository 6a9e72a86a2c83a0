// A model whose matrix products are done in bfloat16, for whoever prefers speed to the last digits.
#pragma once

#include <memory>

#include "model/model.h"

namespace fluoroscope::model {

// Makes, block by block, a model that shares everything with `exact` but the blocks' matrices, of which it has bfloat16 copies. Its
// residual stream, norms, attention and unembedding stay in float32, and so do the sums inside a product; what goes into one is rounded to
// bfloat16, and so is what comes out (a relative error of 2^-9 each).
class HalfProducts {
 public:
  // `exact` is in float32.
  explicit HalfProducts(std::shared_ptr<const Model> exact);

  // Converts the next block; false when all are done. The copies are charged to the weights. What LibTorch throws passes through.
  bool Step();

  // What the copies of a model take.
  static uint64_t Bytes(const Model& exact);

  // Once Step has returned false.
  std::shared_ptr<const Model> Take() { return std::move(model_); }

 private:
  std::shared_ptr<Model> model_;
  size_t next_ = 0;
};

// The gated MLP of such a model in one go, for rows inside whose MLP nobody looks: x [tokens, d_model], normalized -> [tokens, d_model].
// In bfloat16: the same bits as the products one by one, without the ways to float32 and back between them. Undefined where it does not
// apply.
at::Tensor HalfGatedMlp(const Model& model, const BlockWeights& block, const at::Tensor& x);

// linear.Apply(x), but of such a model's matrices without bias what came out of the product: bfloat16.
at::Tensor HalfOr(const Linear& linear, const at::Tensor& x);

}  // namespace fluoroscope::model
