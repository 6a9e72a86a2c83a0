// Llama and the many models that share its config ("model_type": "llama"): SmolLM2, TinyLlama, Llama 2 and 3.
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
  arch.family = "llama";
  arch.layers = reader.Int("num_hidden_layers");
  arch.d_model = reader.Int("hidden_size");
  arch.heads = reader.Int("num_attention_heads");
  arch.kv_heads = reader.Int("num_key_value_heads", arch.heads);
  if (!reader.Given("head_dim") && arch.d_model % arch.heads != 0)
    reader.Fail("hidden_size is not a multiple of num_attention_heads, and head_dim is missing");
  arch.d_head = reader.Int("head_dim", std::max<int64_t>(1, arch.d_model / arch.heads));
  arch.d_mlp = reader.Int("intermediate_size");
  arch.vocabulary = reader.Int("vocab_size");
  arch.context = reader.Context("max_position_embeddings", 2048);
  arch.norm = Norm::kRms;
  arch.norm_eps = reader.Number("rms_norm_eps", 1e-6);
  arch.positions = PositionScheme::kRotary;
  arch.score_scale = 1.0 / std::sqrt(static_cast<double>(arch.d_head));
  arch.qkv_bias = arch.attn_out_bias = reader.Bool("attention_bias", false);
  arch.mlp_bias = reader.Bool("mlp_bias", false);
  arch.gated_mlp = true;
  arch.tied_unembedding = reader.Bool("tie_word_embeddings", false);
  if (arch.heads % arch.kv_heads != 0) reader.Fail("num_attention_heads must be a multiple of num_key_value_heads");
  if (arch.d_head % 2 != 0) reader.Fail("head_dim must be even for rotary positions");
  reader.RequireInt("pretraining_tp", 1, "split products round differently");
  reader.RequireAbsent({"quantization_config", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
                        "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "use_qk_norm"});
  if (!reader.status().ok()) return reader.status();
  FS_ASSIGN_OR_RETURN(arch.activation, ParseActivation(reader.String("hidden_act", "silu")));
  FS_ASSIGN_OR_RETURN(arch.rotary, ParseRotary(config, 10000.0));
  return arch;
}

absl::StatusOr<Weights> Load(const Architecture& arch, const WeightReader& body, const WeightReader& top) {
  Weights w;
  FS_ASSIGN_OR_RETURN(w.embed, body.Tensor("embed_tokens.weight", {arch.vocabulary, arch.d_model}));
  FS_ASSIGN_OR_RETURN(w.unembed, ReadUnembedding(arch, w.embed, body, "embed_tokens.weight", top));
  for (int64_t l = 0; l < arch.layers; ++l) {
    const std::string layer = "layers." + std::to_string(l) + ".";
    BlockWeights b;
    FS_ASSIGN_OR_RETURN(b.ln1, body.Norm(layer + "input_layernorm", arch.d_model, false));
    FS_ASSIGN_OR_RETURN(b.qkv, body.FusedLinear({{layer + "self_attn.q_proj", arch.q_size()},
                                                 {layer + "self_attn.k_proj", arch.kv_size()},
                                                 {layer + "self_attn.v_proj", arch.kv_size()}},
                                                arch.d_model, arch.qkv_bias));
    FS_ASSIGN_OR_RETURN(b.attn_out, body.FusedLinear({{layer + "self_attn.o_proj", arch.d_model}}, arch.q_size(), arch.attn_out_bias));
    FS_ASSIGN_OR_RETURN(b.ln2, body.Norm(layer + "post_attention_layernorm", arch.d_model, false));
    FS_ASSIGN_OR_RETURN(b.mlp_in, body.FusedLinear({{layer + "mlp.gate_proj", arch.d_mlp}, {layer + "mlp.up_proj", arch.d_mlp}},
                                                   arch.d_model, arch.mlp_bias));
    FS_ASSIGN_OR_RETURN(b.mlp_out, body.FusedLinear({{layer + "mlp.down_proj", arch.d_model}}, arch.d_mlp, arch.mlp_bias));
    w.blocks.push_back(std::move(b));
  }
  FS_ASSIGN_OR_RETURN(w.ln_final, body.Norm("norm", arch.d_model, false));
  return w;
}

// The rotary frequencies. They come from config.json, as in transformers: half-precision checkpoints hold them rounded.
constexpr std::string_view kBuffers[] = {"layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"};

}  // namespace

const Family kLlama = {"llama", Parse, "model.", "embed_tokens.weight", Load, kBuffers};

}  // namespace fluoroscope::model
