#include "model/attention.h"

#include <limits>
#include <numeric>

#include "model/short_attention.h"

namespace fluoroscope::model {
namespace {

// The absolute positions of a row's keys: those of its prefix, then its own.
std::vector<int64_t> KeyPositions(const RowSpan& kv_row) {
  std::vector<int64_t> positions(static_cast<size_t>(kv_row.prefix_size));
  std::iota(positions.begin(), positions.end(), 0);
  positions.insert(positions.end(), kv_row.positions.begin(), kv_row.positions.end());
  return positions;
}

// True where a query may not see a key, bool [queries, keys]; undefined when every query sees every key.
at::Tensor HiddenKeys(const RowSpan& q_row, const RowSpan& kv_row, at::Device device) {
  if (q_row.positions.front() >= kv_row.positions.back()) return {};
  return IndexTensor(KeyPositions(kv_row), device).unsqueeze(0) > IndexTensor(q_row.positions, device).unsqueeze(1);
}

// A row's keys or values, those of its prefix in front: [keys, kv_heads, d_head].
at::Tensor WithPrefix(const std::vector<at::Tensor> KvPrefix::*which, int64_t layer, const RowSpan& kv_row, const at::Tensor& own) {
  if (kv_row.prefix_size == 0) return own;
  return at::cat({(kv_row.prefix->*which)[static_cast<size_t>(layer)].narrow(0, 0, kv_row.prefix_size), own});
}

// [.., kv_heads, n, d] -> [.., heads, n, d]: each key-value head serves heads / kv_heads queries in a row.
at::Tensor RepeatHeads(const at::Tensor& x, int64_t heads) {
  const int64_t groups = heads / x.size(-3);
  return groups == 1 ? x : x.repeat_interleave(groups, -3);
}

at::Tensor AttendExplicitly(const Model& model, int64_t layer, const RowSpan& q_row, const RowSpan& kv_row, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v, SiteHooks& hooks) {
  const int64_t heads = model.arch.heads;
  const at::Tensor keys = RepeatHeads(WithPrefix(&KvPrefix::k, layer, kv_row, k).transpose(0, 1), heads);    // [heads, keys, d_head]
  const at::Tensor values = RepeatHeads(WithPrefix(&KvPrefix::v, layer, kv_row, v).transpose(0, 1), heads);  // [heads, keys, d_head]
  // Scaled before the product: in float16 the product alone may overflow.
  at::Tensor scores = at::matmul(q.transpose(0, 1) * model.arch.score_scale, keys.transpose(1, 2));
  const at::Tensor hidden = HiddenKeys(q_row, kv_row, model.device);
  if (hidden.defined()) scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  if (hooks.Wants(Site::kAttnScores, layer, q_row.slot)) scores = hooks.AtRow(Site::kAttnScores, layer, q_row, std::move(scores));
  at::Tensor pattern = at::softmax(scores, -1);
  if (hooks.Wants(Site::kPattern, layer, q_row.slot)) pattern = hooks.AtRow(Site::kPattern, layer, q_row, std::move(pattern));
  return at::matmul(pattern, values).transpose(0, 1);  // [queries, heads, d_head]
}

// `count` rows of equal positions and the same prefix that lie side by side, in one call. q, k, v: their lines.
at::Tensor AttendFused(const Model& model, int64_t layer, int64_t count, const RowSpan& q_row, const RowSpan& kv_row, const at::Tensor& q,
                       const at::Tensor& k, const at::Tensor& v) {
  const auto batched = [count](const at::Tensor& x) {
    return x.reshape({count, x.size(0) / count, x.size(1), x.size(2)}).transpose(1, 2);  // [count, heads, n, d_head]
  };
  const auto keys = [&](const std::vector<at::Tensor> KvPrefix::*which, const at::Tensor& own) {
    if (kv_row.prefix_size == 0) return batched(own);
    const at::Tensor prefix = (kv_row.prefix->*which)[static_cast<size_t>(layer)].narrow(0, 0, kv_row.prefix_size);
    return at::cat({prefix.transpose(0, 1).unsqueeze(0).expand({count, -1, -1, -1}), batched(own)}, 2);
  };
  const bool square = kv_row.prefix_size == 0 && q_row.positions == kv_row.positions;
  at::Tensor visible;
  if (!square)
    if (const at::Tensor hidden = HiddenKeys(q_row, kv_row, model.device); hidden.defined()) visible = hidden.logical_not();
  const at::Tensor z = at::scaled_dot_product_attention(batched(q), keys(&KvPrefix::k, k), keys(&KvPrefix::v, v),
                                                        visible.defined() ? std::optional<at::Tensor>(visible) : std::nullopt,
                                                        /*dropout_p=*/0.0, /*is_causal=*/square && q_row.size() > 1, model.arch.score_scale,
                                                        /*enable_gqa=*/true);
  return z.transpose(1, 2).reshape(q.sizes());
}

}  // namespace

at::Tensor Attend(const Model& model, int64_t layer, const at::Tensor& q, const PackedRows& q_rows, const at::Tensor& k,
                  const at::Tensor& v, const PackedRows& kv_rows, SiteHooks& hooks) {
  const std::vector<RowSpan>& queries = q_rows.rows();
  const std::vector<RowSpan>& keys = kv_rows.rows();
  const bool looked_into = hooks.Wants(Site::kAttnScores, layer) || hooks.Wants(Site::kPattern, layer);
  const auto is_explicit = [&](int64_t slot) {
    return looked_into && (hooks.Wants(Site::kAttnScores, layer, slot) || hooks.Wants(Site::kPattern, layer, slot));
  };
  const bool may_be_short = CanAttendShort(q, k, v);
  const auto is_short = [&](size_t i) { return may_be_short && !is_explicit(queries[i].slot) && queries[i].size() <= kMaxShortQueries; };
  const auto alike = [&](size_t a, size_t b) {
    return queries[a].positions == queries[b].positions && keys[a].positions == keys[b].positions && keys[a].prefix == keys[b].prefix &&
           keys[a].prefix_size == keys[b].prefix_size;
  };
  std::vector<at::Tensor> pieces;
  for (size_t i = 0; i < queries.size();) {
    size_t end = i + 1;
    const bool explicit_row = is_explicit(queries[i].slot), short_row = is_short(i);
    if (short_row)
      while (end < queries.size() && is_short(end)) ++end;
    else if (!explicit_row)
      while (end < queries.size() && !is_explicit(queries[end].slot) && alike(i, end)) ++end;
    const auto lines = [&](const at::Tensor& x, const std::vector<RowSpan>& rows) {
      if (i == 0 && end == rows.size()) return x;
      return x.narrow(0, rows[i].begin, rows[end - 1].begin + rows[end - 1].size() - rows[i].begin);
    };
    const at::Tensor q_lines = lines(q, queries), k_lines = lines(k, keys), v_lines = lines(v, keys);
    if (short_row) {
      pieces.push_back(ShortAttention(std::span(queries).subspan(i, end - i), std::span(keys).subspan(i, end - i), layer, q_lines, k_lines,
                                      v_lines, model.arch.score_scale));
    } else if (explicit_row) {
      pieces.push_back(AttendExplicitly(model, layer, queries[i], keys[i], q_lines, k_lines, v_lines, hooks));
    } else {
      pieces.push_back(AttendFused(model, layer, static_cast<int64_t>(end - i), queries[i], keys[i], q_lines, k_lines, v_lines));
    }
    i = end;
  }
  return pieces.size() == 1 ? pieces.front().contiguous() : at::cat(pieces);
}

}  // namespace fluoroscope::model
