// A model's weights by TransformerLens's names and in its shapes, as views of what the blocks use.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"

namespace fluoroscope::model {

struct NamedWeight {
  std::string name;               // "blocks.3.attn.W_Q"
  std::vector<std::string> axes;  // "head", "d_model", "d_head"; outermost first
  at::Tensor value;               // a view of the model's memory, seldom contiguous
};

// All that the model has, in the order of a forward pass. With grouped-query attention W_K and W_V keep their own head count. Nothing is
// listed that is not there: a model without biases has no b_Q.
std::vector<NamedWeight> NamedWeights(const Model& model);

}  // namespace fluoroscope::model
