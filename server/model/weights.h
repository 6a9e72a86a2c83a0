// A model's weights in the shapes the blocks use: one matrix per product, fused where a product shares its input.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace fluoroscope::model {

// y = x @ weight^T + bias. A weight of another type than x's: the product is done in the weight's, y is in x's.
struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], undefined without one

  // x [tokens, in] -> [tokens, out].
  at::Tensor Apply(const at::Tensor& x) const;
  // Only the outputs [start, start + size).
  at::Tensor ApplyRange(const at::Tensor& x, int64_t start, int64_t size) const;
};

struct NormWeights {
  at::Tensor weight;  // [d_model]
  at::Tensor bias;    // [d_model], undefined for RMSNorm
};

struct BlockWeights {
  NormWeights ln1;
  Linear qkv;  // [q_size + 2 kv_size, d_model]: queries, keys, values
  Linear attn_out;
  NormWeights ln2;
  Linear mlp_in;  // plain: [d_mlp, d_model]; gated: [2 d_mlp, d_model], gate first
  Linear mlp_out;
};

struct Weights {
  at::Tensor embed;      // [vocabulary, d_model]
  at::Tensor pos_embed;  // [context, d_model], undefined without learned positions
  std::vector<BlockWeights> blocks;
  NormWeights ln_final;
  Linear unembed;  // [vocabulary, d_model]; the same tensor as `embed` when tied

  int64_t Bytes() const;       // tied tensors once
  int64_t Parameters() const;  // tied tensors once
};

}  // namespace fluoroscope::model
