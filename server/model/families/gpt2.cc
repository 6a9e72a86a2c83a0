// GPT-2 and its relatives ("model_type": "gpt2"): learned positions, LayerNorm, a plain MLP, weights stored as [in, out].
#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "model/families/config_reader.h"
#include "model/families/family.h"

namespace fluoroscope::model {
namespace {

absl::StatusOr<Architecture> Parse(const nlohmann::json& config) {
  ConfigReader reader(config);
  Architecture arch;
  arch.family = "gpt2";
  arch.layers = reader.Int("n_layer");
  arch.d_model = reader.Int("n_embd");
  arch.heads = arch.kv_heads = reader.Int("n_head");
  if (arch.d_model % arch.heads != 0) reader.Fail("n_embd must be a multiple of n_head");
  arch.d_head = std::max<int64_t>(1, arch.d_model / arch.heads);
  arch.d_mlp = reader.Int("n_inner", 4 * arch.d_model);
  arch.vocabulary = reader.Int("vocab_size");
  arch.context = reader.Context("n_positions", 1024);
  arch.norm = Norm::kLayer;
  arch.norm_eps = reader.Number("layer_norm_epsilon", 1e-5);
  arch.positions = PositionScheme::kLearned;
  arch.score_scale = reader.Bool("scale_attn_weights", true) ? 1.0 / std::sqrt(static_cast<double>(arch.d_head)) : 1.0;
  arch.qkv_bias = arch.attn_out_bias = arch.mlp_bias = true;
  arch.gated_mlp = false;
  arch.tied_unembedding = reader.Bool("tie_word_embeddings", true);
  reader.RequireBool("scale_attn_by_inverse_layer_idx", false, "scores would be scaled differently in each layer");
  reader.RequireBool("reorder_and_upcast_attn", false, "attention would round differently");
  reader.RequireBool("add_cross_attention", false, "only decoders without cross-attention can be run");
  reader.RequireAbsent({"quantization_config"});
  if (!reader.status().ok()) return reader.status();
  FS_ASSIGN_OR_RETURN(arch.activation, ParseActivation(reader.String("activation_function", "gelu_new")));
  return arch;
}

absl::StatusOr<Weights> Load(const Architecture& arch, const WeightReader& body, const WeightReader& top) {
  Weights w;
  const int64_t d = arch.d_model;
  FS_ASSIGN_OR_RETURN(w.embed, body.Tensor("wte.weight", {arch.vocabulary, d}));
  FS_ASSIGN_OR_RETURN(w.unembed, ReadUnembedding(arch, w.embed, body, "wte.weight", top));
  FS_ASSIGN_OR_RETURN(w.pos_embed, body.Tensor("wpe.weight", {arch.context, d}));
  for (int64_t l = 0; l < arch.layers; ++l) {
    const std::string layer = "h." + std::to_string(l) + ".";
    BlockWeights b;
    FS_ASSIGN_OR_RETURN(b.ln1, body.Norm(layer + "ln_1", d, true));
    FS_ASSIGN_OR_RETURN(b.qkv, body.TransposedLinear(layer + "attn.c_attn", 3 * d, d, true));
    FS_ASSIGN_OR_RETURN(b.attn_out, body.TransposedLinear(layer + "attn.c_proj", d, d, true));
    FS_ASSIGN_OR_RETURN(b.ln2, body.Norm(layer + "ln_2", d, true));
    FS_ASSIGN_OR_RETURN(b.mlp_in, body.TransposedLinear(layer + "mlp.c_fc", arch.d_mlp, d, true));
    FS_ASSIGN_OR_RETURN(b.mlp_out, body.TransposedLinear(layer + "mlp.c_proj", d, arch.d_mlp, true));
    w.blocks.push_back(std::move(b));
  }
  FS_ASSIGN_OR_RETURN(w.ln_final, body.Norm("ln_f", d, true));
  return w;
}

// The causal mask, and what masked scores were set to.
constexpr std::string_view kBuffers[] = {"h.*.attn.bias", "h.*.attn.masked_bias"};

}  // namespace

const Family kGpt2 = {"gpt2", Parse, "transformer.", "wte.weight", Load, kBuffers};

}  // namespace fluoroscope::model
