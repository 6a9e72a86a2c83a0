#include "model/named_weights.h"

#include <utility>

namespace fluoroscope::model {
namespace {

class List {
 public:
  void Add(const std::string& name, std::vector<std::string> axes, const at::Tensor& value) {
    if (value.defined()) all_.push_back({prefix_ + name, std::move(axes), value});
  }
  void AddNorm(const std::string& name, const NormWeights& norm) {
    Add(name + ".w", {"d_model"}, norm.weight);
    Add(name + ".b", {"d_model"}, norm.bias);
  }
  void Within(std::string prefix) { prefix_ = std::move(prefix); }
  std::vector<NamedWeight> Take() { return std::move(all_); }

 private:
  std::vector<NamedWeight> all_;
  std::string prefix_;
};

// Some outputs of a fused product as a matrix of its own: inputs first, as in x @ W.
struct Outputs {
  at::Tensor weight;  // [in, out]
  at::Tensor bias;    // [out], undefined without one
};

Outputs OutputsOf(const Linear& linear, int64_t start, int64_t size) {
  return {linear.weight.narrow(0, start, size).t(), linear.bias.defined() ? linear.bias.narrow(0, start, size) : linear.bias};
}

void AddAttention(const Architecture& arch, const BlockWeights& block, List& out) {
  const auto add = [&](const std::string& letter, const std::string& head, int64_t start, int64_t heads) {
    const Outputs part = OutputsOf(block.qkv, start, heads * arch.d_head);
    out.Add("attn.W_" + letter, {head, "d_model", "d_head"}, part.weight.unflatten(1, {heads, arch.d_head}).transpose(0, 1));
    if (part.bias.defined()) out.Add("attn.b_" + letter, {head, "d_head"}, part.bias.view({heads, arch.d_head}));
  };
  add("Q", "head", 0, arch.heads);
  add("K", "kv_head", arch.q_size(), arch.kv_heads);
  add("V", "kv_head", arch.q_size() + arch.kv_size(), arch.kv_heads);
  out.Add("attn.W_O", {"head", "d_head", "d_model"}, block.attn_out.weight.t().unflatten(0, {arch.heads, arch.d_head}));
  out.Add("attn.b_O", {"d_model"}, block.attn_out.bias);
}

void AddMlp(const Architecture& arch, const BlockWeights& block, List& out) {
  if (arch.gated_mlp) {
    const Outputs gate = OutputsOf(block.mlp_in, 0, arch.d_mlp);
    out.Add("mlp.W_gate", {"d_model", "d_mlp"}, gate.weight);
    out.Add("mlp.b_gate", {"d_mlp"}, gate.bias);
  }
  const Outputs in = OutputsOf(block.mlp_in, arch.gated_mlp ? arch.d_mlp : 0, arch.d_mlp);
  out.Add("mlp.W_in", {"d_model", "d_mlp"}, in.weight);
  out.Add("mlp.b_in", {"d_mlp"}, in.bias);
  out.Add("mlp.W_out", {"d_mlp", "d_model"}, block.mlp_out.weight.t());
  out.Add("mlp.b_out", {"d_model"}, block.mlp_out.bias);
}

}  // namespace

std::vector<NamedWeight> NamedWeights(const Model& model) {
  const Weights& w = model.weights;
  List out;
  out.Add("embed.W_E", {"d_vocab", "d_model"}, w.embed);
  out.Add("pos_embed.W_pos", {"n_ctx", "d_model"}, w.pos_embed);
  for (size_t layer = 0; layer < w.blocks.size(); ++layer) {
    out.Within("blocks." + std::to_string(layer) + ".");
    out.AddNorm("ln1", w.blocks[layer].ln1);
    AddAttention(model.arch, w.blocks[layer], out);
    out.AddNorm("ln2", w.blocks[layer].ln2);
    AddMlp(model.arch, w.blocks[layer], out);
  }
  out.Within("");
  out.AddNorm("ln_final", w.ln_final);
  out.Add("unembed.W_U", {"d_model", "d_vocab"}, w.unembed.weight.t());
  out.Add("unembed.b_U", {"d_vocab"}, w.unembed.bias);
  return out.Take();
}

}  // namespace fluoroscope::model
