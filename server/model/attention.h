// Attention over packed rows: each row attends to itself only, fused where nobody looks inside.
#pragma once

#include <ATen/ATen.h>

#include "model/hooks.h"
#include "model/model.h"

namespace fluoroscope::model {

// softmax(q k^T * scale, causal) v for every row. q [q_rows.tokens(), heads, d_head]; k, v [kv_rows.tokens(), kv_heads, d_head]; `q_rows`
// has the same rows as `kv_rows`, with all or some of their positions; a row with a prefix also sees that. Returns z [q_rows.tokens(),
// heads, d_head]. Rows whose scores or pattern are wanted are computed explicitly, each by itself; the others fused, those with few
// queries by a kernel of their own (short_attention.h), the rest grouped by equal lengths.
at::Tensor Attend(const Model& model, int64_t layer, const at::Tensor& q, const PackedRows& q_rows, const at::Tensor& k,
                  const at::Tensor& v, const PackedRows& kv_rows, SiteHooks& hooks);

}  // namespace fluoroscope::model
