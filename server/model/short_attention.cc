#include "model/short_attention.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/avx512.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

using namespace avx512;

// A run of key or value vectors of one head: `count` of them, `stride` floats apart.
struct Vectors {
  const float* first;
  int64_t count, stride;
};

// scores[i] = scale * q . key i.
FS_AVX512 void Dots(const float* q, const Vectors& keys, int64_t d, float scale, float* scores) {
  int64_t i = 0;
  // Four keys share each load of q.
  for (; i + 4 <= keys.count; i += 4) {
    const float* k = keys.first + i * keys.stride;
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t c = 0; c < d; c += kLanes) {
      const __mmask16 mask = MaskOf(d - c);
      const __m512 x = _mm512_maskz_loadu_ps(mask, q + c);
      for (int j = 0; j < 4; ++j) sum[j] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, k + j * keys.stride + c), sum[j]);
    }
    for (int j = 0; j < 4; ++j) scores[i + j] = scale * _mm512_reduce_add_ps(sum[j]);
  }
  for (; i < keys.count; ++i) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < d; c += kLanes) {
      const __mmask16 mask = MaskOf(d - c);
      sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, q + c), _mm512_maskz_loadu_ps(mask, keys.first + i * keys.stride + c), sum);
    }
    scores[i] = scale * _mm512_reduce_add_ps(sum);
  }
}

// Turns scores into their softmax, in place.
FS_AVX512 void Softmax(float* scores, int64_t count) {
  __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < count; i += kLanes) most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, MaskOf(count - i), scores + i));
  const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 total = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = MaskOf(count - i);
    const __m512 e = Exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + i), largest));
    total = _mm512_mask_add_ps(total, mask, total, e);
    _mm512_mask_storeu_ps(scores + i, mask, e);
  }
  const __m512 one_over = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = MaskOf(count - i);
    _mm512_mask_storeu_ps(scores + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scores + i), one_over));
  }
}

// z += sum of weights[i] * value i.
FS_AVX512 void AddWeighted(const float* weights, const Vectors& values, int64_t d, float* z) {
  for (int64_t c = 0; c < d; c += kLanes) {
    const __mmask16 mask = MaskOf(d - c);
    __m512 sum = _mm512_maskz_loadu_ps(mask, z + c);
    for (int64_t i = 0; i < values.count; ++i)
      sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[i]), _mm512_maskz_loadu_ps(mask, values.first + i * values.stride + c), sum);
    _mm512_mask_storeu_ps(z + c, mask, sum);
  }
}

// The last two axes lie as they should: heads side by side.
bool IsPacked(const at::Tensor& x) { return x.stride(2) == 1 && x.stride(1) == x.size(2); }

}  // namespace

bool CanAttendShort(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto fits = [](const at::Tensor& x) {
    return x.device().is_cpu() && x.scalar_type() == at::kFloat && IsPacked(x) && !(c10::GradMode::is_enabled() && x.requires_grad());
  };
  return HasAvx512() && fits(q) && fits(k) && fits(v);
}

at::Tensor ShortAttention(std::span<const RowSpan> queries, std::span<const RowSpan> keys, int64_t layer, const at::Tensor& q,
                          const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t heads = q.size(1), d = q.size(2), group = heads / k.size(1);
  at::Tensor z = at::empty(q.sizes(), q.options());
  float* const z_data = z.mutable_data_ptr<float>();
  const float* const q_data = q.const_data_ptr<float>();
  int64_t longest = 0;
  for (const RowSpan& row : keys) longest = std::max(longest, row.prefix_size + row.size());

  // One head of one row.
  const auto attend = [&](const RowSpan& q_row, const RowSpan& kv_row, int64_t head, float* scores) {
    const int64_t prefix = kv_row.prefix_size;
    const auto vectors = [&](const at::Tensor& x, int64_t line, int64_t count) {
      return Vectors{x.const_data_ptr<float>() + line * x.stride(0) + head / group * d, count, x.stride(0)};
    };
    Vectors prefix_keys{}, prefix_values{};
    if (prefix > 0) {
      prefix_keys = vectors(kv_row.prefix->k[static_cast<size_t>(layer)], 0, prefix);
      prefix_values = vectors(kv_row.prefix->v[static_cast<size_t>(layer)], 0, prefix);
    }
    const int64_t first_key = kv_row.begin - keys.front().begin;
    for (int64_t i = 0; i < q_row.size(); ++i) {
      const int64_t line = q_row.begin - queries.front().begin + i;
      const auto seen = std::upper_bound(kv_row.positions.begin(), kv_row.positions.end(), q_row.positions[static_cast<size_t>(i)]);
      const int64_t own = seen - kv_row.positions.begin();
      const float* query = q_data + line * q.stride(0) + head * d;
      Dots(query, prefix_keys, d, static_cast<float>(scale), scores);
      Dots(query, vectors(k, first_key, own), d, static_cast<float>(scale), scores + prefix);
      Softmax(scores, prefix + own);
      float* out = z_data + (line * heads + head) * d;
      std::fill_n(out, d, 0.0f);
      AddWeighted(scores, prefix_values, d, out);
      AddWeighted(scores + prefix, vectors(v, first_key, own), d, out);
    }
  };
  // The others have been waiting since the last matrix product, so that a few microseconds' work is worth sharing: generation was 1 %
  // faster than with 5000 here.
  constexpr int64_t kGrain = 200;  // products of a query and a key
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, longest * queries.front().size()));
  at::parallel_for(0, static_cast<int64_t>(queries.size()) * heads, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(longest));
    for (int64_t task = begin; task < end; ++task) {
      const size_t row = static_cast<size_t>(task / heads);
      attend(queries[row], keys[row], task % heads, scores.data());
    }
  });
  return z;
}

#else

bool CanAttendShort(const at::Tensor&, const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor ShortAttention(std::span<const RowSpan>, std::span<const RowSpan>, int64_t, const at::Tensor& q, const at::Tensor&,
                          const at::Tensor&, double) {
  return q;  // never called
}

#endif

}  // namespace fluoroscope::model
