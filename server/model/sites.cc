#include "model/sites.h"

#include <array>

namespace fluoroscope::model {
namespace {

using A = Axis;

// Equations use the names of other sites of the same layer; `@` is the matrix product over the last axis.
const std::array<SiteSpec, kSiteCount>& Table() {
  static const std::array<SiteSpec, kSiteCount> table = {{
      {Site::kEmbed, "hook_embed", false, Part::kEmbedding, {A::kPosition, A::kDModel}, "W_E[token]", true, false},
      {Site::kPosEmbed, "hook_pos_embed", false, Part::kEmbedding, {A::kPosition, A::kDModel}, "W_pos[position]", true, false},
      {Site::kResidPre,
       "hook_resid_pre",
       true,
       Part::kBlockInput,
       {A::kPosition, A::kDModel},
       "layer 0: hook_embed (+ hook_pos_embed); else the layer below's hook_resid_post",
       true,
       false},
      {Site::kAttnIn,
       "hook_attn_in",
       true,
       Part::kAttention,
       {A::kPosition, A::kHead, A::kDModel},
       "hook_resid_pre, once per head",
       false,
       false},
      {Site::kQInput,
       "hook_q_input",
       true,
       Part::kAttention,
       {A::kPosition, A::kHead, A::kDModel},
       "hook_attn_in, as the queries read it",
       false,
       false},
      {Site::kKInput,
       "hook_k_input",
       true,
       Part::kAttention,
       {A::kPosition, A::kKvHead, A::kDModel},
       "hook_attn_in, as the keys read it",
       false,
       false},
      {Site::kVInput,
       "hook_v_input",
       true,
       Part::kAttention,
       {A::kPosition, A::kKvHead, A::kDModel},
       "hook_attn_in, as the values read it",
       false,
       false},
      {Site::kLn1Scale,
       "ln1.hook_scale",
       true,
       Part::kAttention,
       {A::kPosition, A::kOne},
       "LayerNorm: sqrt(mean((x - mean(x))^2) + eps); RMSNorm: sqrt(mean(x^2) + eps); x = hook_resid_pre",
       true,
       false},
      {Site::kLn1Normalized,
       "ln1.hook_normalized",
       true,
       Part::kAttention,
       {A::kPosition, A::kDModel},
       "LayerNorm: (x - mean(x)) / ln1.hook_scale; RMSNorm: x / ln1.hook_scale; before the norm's weight and bias",
       true,
       false},
      {Site::kQ,
       "attn.hook_q",
       true,
       Part::kAttention,
       {A::kPosition, A::kHead, A::kDHead},
       "(ln1.hook_normalized * w + b) @ W_Q + b_Q, before any rotation",
       true,
       true},
      {Site::kK,
       "attn.hook_k",
       true,
       Part::kAttention,
       {A::kPosition, A::kKvHead, A::kDHead},
       "(ln1.hook_normalized * w + b) @ W_K + b_K, before any rotation",
       true,
       false},
      {Site::kV,
       "attn.hook_v",
       true,
       Part::kAttention,
       {A::kPosition, A::kKvHead, A::kDHead},
       "(ln1.hook_normalized * w + b) @ W_V + b_V",
       true,
       false},
      {Site::kRotQ,
       "attn.hook_rot_q",
       true,
       Part::kAttention,
       {A::kPosition, A::kHead, A::kDHead},
       "attn.hook_q rotated by its position",
       true,
       true},
      {Site::kRotK,
       "attn.hook_rot_k",
       true,
       Part::kAttention,
       {A::kPosition, A::kKvHead, A::kDHead},
       "attn.hook_k rotated by its position",
       true,
       false},
      {Site::kAttnScores,
       "attn.hook_attn_scores",
       true,
       Part::kAttention,
       {A::kHead, A::kQuery, A::kKey},
       "q . k * scale, -inf where the key lies behind the query (q, k rotated where the model rotates)",
       true,
       true},
      {Site::kPattern,
       "attn.hook_pattern",
       true,
       Part::kAttention,
       {A::kHead, A::kQuery, A::kKey},
       "softmax over keys of attn.hook_attn_scores",
       true,
       true},
      {Site::kZ, "attn.hook_z", true, Part::kAttention, {A::kPosition, A::kHead, A::kDHead}, "attn.hook_pattern @ attn.hook_v", true, true},
      {Site::kResult,
       "attn.hook_result",
       true,
       Part::kAttention,
       {A::kPosition, A::kHead, A::kDModel},
       "attn.hook_z @ W_O, per head, without b_O",
       true,
       true},
      {Site::kAttnOut,
       "hook_attn_out",
       true,
       Part::kAttention,
       {A::kPosition, A::kDModel},
       "sum over heads of attn.hook_result + b_O: what is added to the residual",
       true,
       true},
      {Site::kResidMid, "hook_resid_mid", true, Part::kAttention, {A::kPosition, A::kDModel}, "hook_resid_pre + hook_attn_out", true, true},
      {Site::kMlpIn, "hook_mlp_in", true, Part::kMlp, {A::kPosition, A::kDModel}, "hook_resid_mid, as the MLP reads it", true, true},
      {Site::kLn2Scale, "ln2.hook_scale", true, Part::kMlp, {A::kPosition, A::kOne}, "as ln1.hook_scale, of x = hook_mlp_in", true, true},
      {Site::kLn2Normalized,
       "ln2.hook_normalized",
       true,
       Part::kMlp,
       {A::kPosition, A::kDModel},
       "as ln1.hook_normalized, of x = hook_mlp_in",
       true,
       true},
      {Site::kMlpPre,
       "mlp.hook_pre",
       true,
       Part::kMlp,
       {A::kPosition, A::kDMlp},
       "plain MLP: (ln2.hook_normalized * w + b) @ W_in + b_in; gated: (...) @ W_gate + b_gate",
       true,
       true},
      {Site::kMlpPreLinear,
       "mlp.hook_pre_linear",
       true,
       Part::kMlp,
       {A::kPosition, A::kDMlp},
       "gated MLP: (ln2.hook_normalized * w + b) @ W_in + b_in",
       true,
       true},
      {Site::kMlpPost,
       "mlp.hook_post",
       true,
       Part::kMlp,
       {A::kPosition, A::kDMlp},
       "act(mlp.hook_pre), gated: times mlp.hook_pre_linear",
       true,
       true},
      {Site::kMlpOut,
       "hook_mlp_out",
       true,
       Part::kMlp,
       {A::kPosition, A::kDModel},
       "mlp.hook_post @ W_out + b_out: what is added to the residual",
       true,
       true},
      {Site::kResidPost, "hook_resid_post", true, Part::kMlp, {A::kPosition, A::kDModel}, "hook_resid_mid + hook_mlp_out", true, true},
      {Site::kLnFinalScale,
       "ln_final.hook_scale",
       false,
       Part::kFinal,
       {A::kPosition, A::kOne},
       "as ln1.hook_scale, of x = the last layer's hook_resid_post",
       true,
       true},
      {Site::kLnFinalNormalized,
       "ln_final.hook_normalized",
       false,
       Part::kFinal,
       {A::kPosition, A::kDModel},
       "as ln1.hook_normalized, of x = the last layer's hook_resid_post; logits = (it * w + b) @ W_U",
       true,
       true},
  }};
  return table;
}

}  // namespace

std::span<const SiteSpec> Sites() { return Table(); }

const SiteSpec& SpecOf(Site site) { return Table()[static_cast<size_t>(site)]; }

std::string FullName(Site site, int64_t layer) {
  const SiteSpec& spec = SpecOf(site);
  if (!spec.in_block) return std::string(spec.name);
  return "blocks." + std::to_string(layer) + "." + std::string(spec.name);
}

bool HasGradient(Site site) { return site != Site::kAttnIn && site != Site::kQInput && site != Site::kKInput && site != Site::kVInput; }

std::optional<std::string> Unavailable(Site site, const Architecture& arch) {
  if (site == Site::kPosEmbed && arch.positions != PositionScheme::kLearned)
    return "this model has no learned position embedding; positions enter by rotating q and k";
  if ((site == Site::kRotQ || site == Site::kRotK) && arch.positions != PositionScheme::kRotary)
    return "this model does not rotate q and k; its positions are a learned embedding";
  if (site == Site::kMlpPreLinear && !arch.gated_mlp) return "this model's MLP is not gated";
  return std::nullopt;
}

std::string_view NameOf(Axis axis) {
  static constexpr std::string_view names[] = {"pos", "head", "kv_head", "d_model", "d_head", "d_mlp", "query", "key", "one"};
  return names[static_cast<size_t>(axis)];
}

int64_t SizeOf(Axis axis, const Architecture& arch) {
  switch (axis) {
    case Axis::kHead:
      return arch.heads;
    case Axis::kKvHead:
      return arch.kv_heads;
    case Axis::kDModel:
      return arch.d_model;
    case Axis::kDHead:
      return arch.d_head;
    case Axis::kDMlp:
      return arch.d_mlp;
    case Axis::kOne:
      return 1;
    case Axis::kPosition:
    case Axis::kQuery:
    case Axis::kKey:
      return -1;
  }
  return -1;
}

int HeadAxis(const SiteSpec& spec) {
  for (size_t i = 0; i < spec.axes.size(); ++i)
    if (spec.axes[i] == Axis::kHead || spec.axes[i] == Axis::kKvHead) return static_cast<int>(i);
  return -1;
}

int PositionAxis(const SiteSpec& spec) {
  for (size_t i = 0; i < spec.axes.size(); ++i)
    if (spec.axes[i] == Axis::kPosition || spec.axes[i] == Axis::kQuery) return static_cast<int>(i);
  return -1;
}

}  // namespace fluoroscope::model
