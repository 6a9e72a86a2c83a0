#include "model/weights.h"

#include <unordered_set>

#include "model/line_gradients.h"
#include "model/short_linear.h"
#include "model/short_linear_gradient.h"
#include "model/tile_linear.h"

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

// A slice of a matrix's rows is a matrix of its own.
at::Tensor Product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.scalar_type() != weight.scalar_type()) {  // half_products.h
    at::Tensor y = at::linear(x.to(weight.scalar_type()), weight).to(x.scalar_type());
    return bias.defined() ? y.add_(bias) : y;
  }
  const bool is_tiled = IsTiled(x, weight);
  if (!is_tiled && !IsShort(x, weight)) return at::linear(x, weight, bias);
  at::Tensor y = is_tiled ? TileLinear(x, weight) : IsRecorded(x) ? ShortLinearWithGradient(x, weight) : ShortLinear(x, weight);
  return bias.defined() ? y.add_(bias) : y;
}

}  // namespace

at::Tensor Linear::Apply(const at::Tensor& x) const { return Product(x, weight, bias); }

at::Tensor Linear::ApplyRange(const at::Tensor& x, int64_t start, int64_t size) const {
  return Product(x, weight.narrow(0, start, size), bias.defined() ? bias.narrow(0, start, size) : bias);
}

int64_t Weights::Bytes() const {
  return Sum(*this, [](const at::Tensor& t) { return static_cast<int64_t>(t.nbytes()); });
}

int64_t Weights::Parameters() const {
  return Sum(*this, [](const at::Tensor& t) { return t.numel(); });
}

}  // namespace fluoroscope::model
