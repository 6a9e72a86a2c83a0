#include "model/forward.h"

#include "model/attention.h"
#include "model/columns.h"
#include "model/half_products.h"
#include "model/line_gradients.h"
#include "model/norm.h"

namespace fluoroscope::model {
namespace {

at::Tensor Activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kSilu:
      return at::silu(x);
  }
  return x;
}

// The residual as each head reads it: nothing is copied, all heads share the same memory.
void VisitInputs(const Architecture& arch, int64_t layer, const at::Tensor& resid, const PackedRows& rows, SiteHooks& hooks) {
  const auto visit = [&](Site site, int64_t heads) {
    if (hooks.Wants(site, layer)) hooks.At(site, layer, rows, resid.unsqueeze(1).expand({-1, heads, -1}));
  };
  visit(Site::kAttnIn, arch.heads);
  visit(Site::kQInput, arch.heads);
  visit(Site::kKInput, arch.kv_heads);
  visit(Site::kVInput, arch.kv_heads);
}

// z [tokens, heads, d_head] -> hook_attn_out before its hook. Rows that want each head's result get it as a product of their own; an
// edited result is what their attention then adds up to.
at::Tensor ProjectHeads(const Model& model, int64_t layer, const at::Tensor& z, const PackedRows& rows, SiteHooks& hooks) {
  const Linear& out = model.weights.blocks[static_cast<size_t>(layer)].attn_out;
  if (!hooks.Wants(Site::kResult, layer)) return HalfOr(out, JoinHeads(z));
  at::Tensor attn_out = out.Apply(JoinHeads(z));
  const at::Tensor per_head =
      out.weight.to(z.scalar_type()).view({model.arch.d_model, model.arch.heads, model.arch.d_head}).permute({1, 2, 0});
  for (const RowSpan& row : rows.rows()) {
    if (!hooks.Wants(Site::kResult, layer, row.slot)) continue;
    const at::Tensor result = at::matmul(z.narrow(0, row.begin, row.size()).transpose(0, 1), per_head).transpose(0, 1);
    const at::Tensor edited = hooks.AtRow(Site::kResult, layer, row, result);
    if (edited.is_same(result)) continue;
    at::Tensor sum = edited.sum(1);
    if (out.bias.defined()) sum = sum + out.bias;
    attn_out = at::slice_scatter(attn_out, sum, 0, row.begin, row.begin + row.size());
  }
  return attn_out;
}

// The residual with a block's output, a fresh tensor, added. Where nobody looks at that output, the sum takes its place. A bfloat16 output
// (half_products.h) is seen in the residual's type.
at::Tensor AddToResidual(const at::Tensor& resid, at::Tensor out, Site site, int64_t layer, const PackedRows& rows, SiteHooks& hooks) {
  const bool is_seen = hooks.Wants(site, layer);
  if (out.scalar_type() != resid.scalar_type()) {
    if (!is_seen && HasLineKernels(resid) && HasHalfLineKernels(out)) return AddHalfLines(resid, out);
    out = out.to(resid.scalar_type());
  }
  if (!is_seen) return CanAddLines(out, resid) ? AddLines(std::move(out), resid) : out.add_(resid);
  return resid + hooks.At(site, layer, rows, std::move(out));
}

}  // namespace

at::Tensor Embed(const Model& model, const at::Tensor& ids, const PackedRows& rows, SiteHooks& hooks) {
  const at::Tensor embed = Visit(hooks, Site::kEmbed, 0, rows, TakeLines(model.weights.embed, ids));
  if (model.arch.positions != PositionScheme::kLearned) return embed;
  const at::Tensor pos_embed = Visit(hooks, Site::kPosEmbed, 0, rows, TakeLines(model.weights.pos_embed, rows.Positions(model.device)));
  return embed + pos_embed;
}

Angles AnglesOf(const Model& model, const PackedRows& rows) {
  if (model.arch.positions != PositionScheme::kRotary) return {};
  const at::Tensor positions = rows.Positions(model.device);
  return {TakeLines(model.rotary_cos, positions).unsqueeze(1), TakeLines(model.rotary_sin, positions).unsqueeze(1)};
}

at::Tensor AttentionPart(const Model& model, int64_t layer, const at::Tensor& resid_pre, const PackedRows& rows, const PackedRows& keep,
                         const Angles& angles, SiteHooks& hooks) {
  const Architecture& arch = model.arch;
  const BlockWeights& block = model.weights.blocks[static_cast<size_t>(layer)];
  VisitInputs(arch, layer, resid_pre, rows, hooks);
  const at::Tensor x = ApplyNorm(model, block.ln1, resid_pre, Site::kLn1Scale, Site::kLn1Normalized, layer, rows, hooks);

  const int64_t q_size = arch.q_size(), kv_size = arch.kv_size();
  const bool rotary = arch.positions == PositionScheme::kRotary;
  at::Tensor q, kv, resid = resid_pre;
  int64_t first_kv = 0;  // column of kv where the keys begin
  Angles q_angles = angles;
  if (keep.tokens() == rows.tokens()) {
    q = kv = block.qkv.Apply(x);
    first_kv = q_size;
  } else {
    const at::Tensor lines = rows.LinesOf(keep, model.device);
    kv = block.qkv.ApplyRange(x, q_size, 2 * kv_size);
    q = block.qkv.ApplyRange(TakeLines(x, lines), 0, q_size);
    resid = TakeLines(resid_pre, lines);
    if (rotary) q_angles = {TakeLines(angles.cos, lines), TakeLines(angles.sin, lines)};
  }
  q = Visit(hooks, Site::kQ, layer, keep, HeadColumns(q, 0, arch.heads, arch.d_head));
  at::Tensor k = Visit(hooks, Site::kK, layer, rows, HeadColumns(kv, first_kv, arch.kv_heads, arch.d_head));
  const at::Tensor v = Visit(hooks, Site::kV, layer, rows, HeadColumns(kv, first_kv + kv_size, arch.kv_heads, arch.d_head));
  if (rotary) {
    q = Visit(hooks, Site::kRotQ, layer, keep, Rotate(q, q_angles));
    k = Visit(hooks, Site::kRotK, layer, rows, Rotate(k, angles));
  }
  const at::Tensor z = Visit(hooks, Site::kZ, layer, keep, Attend(model, layer, q, keep, k, v, rows, hooks));
  at::Tensor attn_out = ProjectHeads(model, layer, z, keep, hooks);
  return Visit(hooks, Site::kResidMid, layer, keep, AddToResidual(resid, std::move(attn_out), Site::kAttnOut, layer, keep, hooks));
}

at::Tensor MlpPart(const Model& model, int64_t layer, const at::Tensor& resid_mid, const PackedRows& rows, SiteHooks& hooks) {
  const Architecture& arch = model.arch;
  const BlockWeights& block = model.weights.blocks[static_cast<size_t>(layer)];
  // What the MLP reads instead of the residual, where that is edited, is let go behind the norm.
  const at::Tensor x = ApplyNorm(model, block.ln2, Visit(hooks, Site::kMlpIn, layer, rows, resid_mid), Site::kLn2Scale,
                                 Site::kLn2Normalized, layer, rows, hooks);
  const bool is_looked_into =
      hooks.Wants(Site::kMlpPre, layer) || hooks.Wants(Site::kMlpPreLinear, layer) || hooks.Wants(Site::kMlpPost, layer);
  if (at::Tensor out = is_looked_into ? at::Tensor() : HalfGatedMlp(model, block, x); out.defined())
    return Visit(hooks, Site::kResidPost, layer, rows, AddToResidual(resid_mid, std::move(out), Site::kMlpOut, layer, rows, hooks));
  at::Tensor post;
  if (arch.gated_mlp) {
    const at::Tensor both = block.mlp_in.Apply(x);
    const at::Tensor gate = Visit(hooks, Site::kMlpPre, layer, rows, Columns(both, 0, arch.d_mlp));
    const at::Tensor up = Visit(hooks, Site::kMlpPreLinear, layer, rows, Columns(both, arch.d_mlp, arch.d_mlp));
    const bool in_lines = arch.activation == Activation::kSilu && HasLineKernels(gate) && HasLineKernels(up);
    const bool is_read = hooks.Wants(Site::kMlpPre, layer) || hooks.Wants(Site::kMlpPreLinear, layer);
    if (in_lines && !IsRecorded(both))
      post = GateLines(gate, up);
    else if (in_lines && !is_read)
      post = GateLinesWithGradient(both);
    else
      post = Activate(arch.activation, gate).mul_(up);
  } else {
    post = Activate(arch.activation, Visit(hooks, Site::kMlpPre, layer, rows, block.mlp_in.Apply(x)));
  }
  post = Visit(hooks, Site::kMlpPost, layer, rows, std::move(post));
  at::Tensor mlp_out = block.mlp_out.Apply(post);
  return Visit(hooks, Site::kResidPost, layer, rows, AddToResidual(resid_mid, std::move(mlp_out), Site::kMlpOut, layer, rows, hooks));
}

void ReadFrozen(const Model& model, int64_t layer, Part part, const at::Tensor& x, const PackedRows& rows, SiteHooks& hooks) {
  if (part == Part::kMlp) {
    Visit(hooks, Site::kMlpIn, layer, rows, x);
    return;
  }
  // Only for rows that look.
  std::vector<RowSpan> spans;
  for (const RowSpan& row : rows.rows())
    if (hooks.Wants(Site::kQ, layer, row.slot) || hooks.Wants(Site::kK, layer, row.slot) || hooks.Wants(Site::kV, layer, row.slot))
      spans.push_back(row);
  if (spans.empty()) return;
  const PackedRows readers(std::move(spans));
  const Architecture& arch = model.arch;
  const BlockWeights& block = model.weights.blocks[static_cast<size_t>(layer)];
  const at::Tensor own = readers.tokens() == rows.tokens() ? x : TakeLines(x, rows.LinesOf(readers, model.device));
  const at::Tensor normalized = ApplyNorm(model, block.ln1, own, Site::kLn1Scale, Site::kLn1Normalized, layer, readers, hooks);
  const int64_t q_size = arch.q_size(), kv_size = arch.kv_size();
  const auto read = [&](Site site, int64_t start, int64_t size, int64_t heads) {
    if (hooks.Wants(site, layer))
      Visit(hooks, site, layer, readers, block.qkv.ApplyRange(normalized, start, size).unflatten(1, {heads, arch.d_head}));
  };
  read(Site::kQ, 0, q_size, arch.heads);
  read(Site::kK, q_size, kv_size, arch.kv_heads);
  read(Site::kV, q_size + kv_size, kv_size, arch.kv_heads);
}

at::Tensor FinalNorm(const Model& model, const at::Tensor& resid_post, const PackedRows& rows, SiteHooks& hooks) {
  return ApplyNorm(model, model.weights.ln_final, resid_post, Site::kLnFinalScale, Site::kLnFinalNormalized, 0, rows, hooks);
}

at::Tensor Unembed(const Model& model, const at::Tensor& normalized, const at::Tensor& columns) {
  const Linear& unembed = model.weights.unembed;
  if (!columns.defined()) return unembed.Apply(normalized);
  const Linear chosen{TakeLines(unembed.weight, columns), unembed.bias.defined() ? TakeLines(unembed.bias, columns) : unembed.bias};
  return chosen.Apply(normalized);
}

}  // namespace fluoroscope::model
