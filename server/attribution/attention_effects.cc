#include "attribution/attention_effects.h"

#include <limits>

namespace fluoroscope::attribution {
namespace {

at::Tensor InDouble(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); }

// [positions, kv_heads, d_head] -> [heads, positions, d_head]: each key-value head serves heads / kv_heads queries in a row.
at::Tensor KeysOf(const at::Tensor& k, int64_t heads) { return InDouble(k).transpose(0, 1).repeat_interleave(heads / k.size(1), 0); }

at::Tensor Scores(const at::Tensor& q, const at::Tensor& k, double scale) {
  return at::matmul(InDouble(q).transpose(0, 1) * scale, KeysOf(k, q.size(1)).transpose(1, 2));  // [heads, queries, keys]
}

at::Tensor Hidden(int64_t positions) { return at::ones({positions, positions}, at::kBool).triu(1); }

at::Tensor Pattern(const at::Tensor& scores) {
  return at::softmax(scores.masked_fill(Hidden(scores.size(1)), -std::numeric_limits<double>::infinity()), -1);
}

}  // namespace

at::Tensor QueryEffects(const Attention& attention, const at::Tensor& q) {
  const at::Tensor change = Pattern(Scores(q, attention.k, attention.scale)) - Pattern(Scores(attention.q, attention.k, attention.scale));
  return (change * InDouble(attention.gradient)).sum(-1).t();
}

// With a new score s' of one key a query's pattern p becomes p / z for the other keys and e / z for this one, where e = exp(s' - log sum
// exp of the old scores) and z = 1 - p_key + e; so its sum with the gradient g goes from d = sum p g to (d - p_key g_key + e g_key) / z.
// Numerator and denominator are scaled by max(1, e), which may be larger than any number.
at::Tensor KeyEffects(const Attention& attention, const at::Tensor& k) {
  const int64_t heads = attention.q.size(1), kv_heads = k.size(1), positions = k.size(0);
  const at::Tensor hidden = Hidden(positions), gradient = InDouble(attention.gradient);
  const at::Tensor old = Scores(attention.q, attention.k, attention.scale).masked_fill(hidden, -std::numeric_limits<double>::infinity());
  const at::Tensor pattern = at::softmax(old, -1), total = (pattern * gradient).sum(-1, true);
  // Below -700 it would vanish, and a query that sees this key alone would be 0 / 0.
  const at::Tensor exponent = (Scores(attention.q, k, attention.scale) - at::logsumexp(old, -1, true)).clamp_min(-700);
  const at::Tensor larger = exponent.clamp_min(0), e = (exponent - larger).exp(), one = (-larger).exp();
  const at::Tensor effect = ((total - pattern * gradient) * one + e * gradient) / ((1 - pattern) * one + e) - total;
  return effect.masked_fill(hidden, 0).sum(1).view({kv_heads, heads / kv_heads, positions}).sum(1).t();
}

}  // namespace fluoroscope::attribution
