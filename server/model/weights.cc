#include "model/weights.h"

#include <unordered_set>

#include "model/product.h"

namespace fluoroscope::model {
namespace {

std::vector<at::Tensor> AllTensors(const Weights& w) {
  std::vector<at::Tensor> all = {w.embed, w.pos_embed, w.ln_final.weight, w.ln_final.bias, w.unembed.weight, w.unembed.bias};
  for (const BlockWeights& b : w.blocks) {
    for (const NormWeights& n : {b.ln1, b.ln2}) all.insert(all.end(), {n.weight, n.bias});
    for (const Linear& l : {b.qkv, b.attn_out, b.mlp_in, b.mlp_out}) all.insert(all.end(), {l.weight, l.bias});
  }
  return all;
}

// A tied tensor is the same tensor twice: it begins at the same place.
int64_t Sum(const Weights& w, int64_t (*size)(const at::Tensor&)) {
  std::unordered_set<const void*> seen;
  int64_t total = 0;
  for (const at::Tensor& t : AllTensors(w))
    if (t.defined() && seen.insert(t.const_data_ptr()).second) total += size(t);
  return total;
}

}  // namespace

at::Tensor Linear::Apply(const at::Tensor& x) const { return Product(x, weight, bias); }

at::Tensor Linear::ApplyRange(const at::Tensor& x, int64_t start, int64_t size) const {
  // A slice of a matrix's rows is a matrix of its own.
  return Product(x, weight.narrow(0, start, size), bias.defined() ? bias.narrow(0, start, size) : bias);
}

int64_t Weights::Bytes() const {
  return Sum(*this, [](const at::Tensor& t) { return static_cast<int64_t>(t.nbytes()); });
}

int64_t Weights::Parameters() const {
  return Sum(*this, [](const at::Tensor& t) { return t.numel(); });
}

}  // namespace fluoroscope::model
