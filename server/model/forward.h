// The forward pass over packed rows, in the pieces that a run steps through. Each function is one equation of the site table; all of them
// are pure: no state, no thread of their own, any device.
#pragma once

#include <ATen/ATen.h>

#include "model/hooks.h"
#include "model/model.h"
#include "model/packed_rows.h"
#include "model/rotary.h"

namespace fluoroscope::model {

// Token ids i64 [tokens] -> hook_embed + hook_pos_embed, [tokens, d_model].
at::Tensor Embed(const Model& model, const at::Tensor& ids, const PackedRows& rows, SiteHooks& hooks);

// The angles of these rows' tokens, the same in every layer; undefined tensors for models that do not rotate.
Angles AnglesOf(const Model& model, const PackedRows& rows);

// hook_resid_pre [tokens, d_model] -> hook_resid_mid of the rows in `keep`, [keep.tokens(), d_model]. `keep` is `rows` itself or, in the
// last layer, only the positions that somebody reads: all positions get keys and values, only kept ones go on. `angles` are those of
// `rows`.
at::Tensor AttentionPart(const Model& model, int64_t layer, const at::Tensor& resid_pre, const PackedRows& rows, const PackedRows& keep,
                         const Angles& angles, SiteHooks& hooks);

// hook_resid_mid [tokens, d_model] -> hook_resid_post, [tokens, d_model].
at::Tensor MlpPart(const Model& model, int64_t layer, const at::Tensor& resid_mid, const PackedRows& rows, SiteHooks& hooks);

// What the heads (of the part kAttention: hook_q, hook_k, hook_v and the norm in front) or the MLP (hook_mlp_in) of a layer would read, for
// those who want to see it; nothing is computed with it. x: hook_resid_pre or hook_resid_mid, [tokens, d_model].
void ReadFrozen(const Model& model, int64_t layer, Part part, const at::Tensor& x, const PackedRows& rows, SiteHooks& hooks);

// The last layer's hook_resid_post [tokens, d_model] -> what the unembedding multiplies, [tokens, d_model].
at::Tensor FinalNorm(const Model& model, const at::Tensor& resid_post, const PackedRows& rows, SiteHooks& hooks);

// [n, d_model] -> logits [n, vocabulary], or only the columns i64 [m] when given: [n, m].
at::Tensor Unembed(const Model& model, const at::Tensor& normalized, const at::Tensor& columns);

}  // namespace fluoroscope::model
