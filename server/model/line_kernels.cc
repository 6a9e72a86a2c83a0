#include "model/line_kernels.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "model/avx512.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

using namespace avx512;

// Numbers that a thread should have to do with before it is worth waking.
constexpr int64_t kGrain = 16384;

// Calls `line` for each of them, on several threads where there is enough to do.
template <typename Line>
void ForLines(int64_t lines, int64_t width, const Line& line) {
  at::parallel_for(0, lines, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) line(i);
  });
}

struct Moments {
  float mean, scale;
};

FS_AVX512 Moments MomentsOf(const float* x, int64_t d, bool centred, float eps) {
  __m512 sum = _mm512_setzero_ps();
  if (centred)
    for (int64_t c = 0; c < d; c += kLanes) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(MaskOf(d - c), x + c));
  const float mean = centred ? _mm512_reduce_add_ps(sum) / static_cast<float>(d) : 0.0f;
  __m512 squares = _mm512_setzero_ps();
  for (int64_t c = 0; c < d; c += kLanes) {
    const __mmask16 mask = MaskOf(d - c);
    const __m512 away = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + c), _mm512_set1_ps(mean));
    squares = _mm512_fmadd_ps(away, away, squares);
  }
  return {mean, std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(d) + eps)};
}

FS_AVX512 void NormalizeLine(const float* x, Moments m, const float* weight, const float* bias, int64_t d, float* out) {
  const __m512 mean = _mm512_set1_ps(m.mean), scale = _mm512_set1_ps(m.scale);
  for (int64_t c = 0; c < d; c += kLanes) {
    const __mmask16 mask = MaskOf(d - c);
    const __m512 normalized = _mm512_div_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + c), mean), scale);
    __m512 y = _mm512_mul_ps(normalized, _mm512_maskz_loadu_ps(mask, weight + c));
    if (bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, bias + c));
    _mm512_mask_storeu_ps(out + c, mask, y);
  }
}

FS_AVX512 void RotateHead(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
  for (int64_t c = 0; c < half; c += kLanes) {
    const __mmask16 mask = MaskOf(half - c);
    const __m512 first = _mm512_maskz_loadu_ps(mask, x + c), second = _mm512_maskz_loadu_ps(mask, x + half + c);
    const __m512 co = _mm512_maskz_loadu_ps(mask, cos + c), si = _mm512_maskz_loadu_ps(mask, sin + c);
    _mm512_mask_storeu_ps(out + c, mask, _mm512_sub_ps(_mm512_mul_ps(first, co), _mm512_mul_ps(second, si)));
    _mm512_mask_storeu_ps(out + half + c, mask, _mm512_add_ps(_mm512_mul_ps(second, co), _mm512_mul_ps(first, si)));
  }
}

FS_AVX512 __m512 SiluTimes(__m512 g, __m512 up) {
  const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), Exp(_mm512_sub_ps(_mm512_setzero_ps(), g))));
  return _mm512_mul_ps(silu, up);
}

FS_AVX512 void GateLine(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t c = 0; c < n; c += kLanes) {
    const __mmask16 mask = MaskOf(n - c);
    _mm512_mask_storeu_ps(out + c, mask, SiluTimes(_mm512_maskz_loadu_ps(mask, gate + c), _mm512_maskz_loadu_ps(mask, up + c)));
  }
}

FS_AVX512 void AddLine(const float* x, int64_t n, float* out) {
  for (int64_t c = 0; c < n; c += kLanes) {
    const __mmask16 mask = MaskOf(n - c);
    _mm512_mask_storeu_ps(out + c, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out + c), _mm512_maskz_loadu_ps(mask, x + c)));
  }
}

// 16 bfloat16 numbers: the upper halves of floats.
FS_AVX512 __m512 LoadHalf(const c10::BFloat16* x) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Rounded to nearest, ties to even, as LibTorch rounds.
FS_AVX512 void StoreHalf(c10::BFloat16* to, __m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);  // rounding could make infinity of it
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7FC0))));
}

FS_AVX512 void AddHalfLine(const float* x, const c10::BFloat16* y, int64_t n, float* out) {
  for (int64_t c = 0; c < n; c += kLanes) _mm512_storeu_ps(out + c, _mm512_add_ps(_mm512_loadu_ps(x + c), LoadHalf(y + c)));
}

FS_AVX512 void GateHalfLine(const c10::BFloat16* gate, const c10::BFloat16* up, int64_t n, c10::BFloat16* out) {
  for (int64_t c = 0; c < n; c += kLanes) StoreHalf(out + c, SiluTimes(LoadHalf(gate + c), LoadHalf(up + c)));
}

}  // namespace

bool HasLineKernels(at::Device device, at::ScalarType dtype) { return HasAvx512() && device.is_cpu() && dtype == at::kFloat; }

bool HasLineKernels(const at::Tensor& x) { return HasLineKernels(x.device(), x.scalar_type()) && x.dim() >= 2 && x.stride(-1) == 1; }

LineStatistics StatisticsOf(const at::Tensor& x, bool centred, double eps) {
  const int64_t lines = x.size(0), d = x.size(1);
  LineStatistics out{centred ? at::empty({lines, 1}, x.options()) : at::Tensor(), at::empty({lines, 1}, x.options())};
  float* const means = centred ? out.mean.mutable_data_ptr<float>() : nullptr;
  float* const scales = out.scale.mutable_data_ptr<float>();
  const float* const data = x.const_data_ptr<float>();
  ForLines(lines, d, [&](int64_t i) {
    const Moments m = MomentsOf(data + i * x.stride(0), d, centred, static_cast<float>(eps));
    if (means != nullptr) means[i] = m.mean;
    scales[i] = m.scale;
  });
  return out;
}

at::Tensor NormalizeLines(const at::Tensor& x, const LineStatistics& statistics, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t lines = x.size(0), d = x.size(1);
  at::Tensor y = at::empty({lines, d}, x.options());
  float* const out = y.mutable_data_ptr<float>();
  const float* const data = x.const_data_ptr<float>();
  const float* const means = statistics.mean.defined() ? statistics.mean.const_data_ptr<float>() : nullptr;
  const float* const scales = statistics.scale.const_data_ptr<float>();
  const float* const w = weight.const_data_ptr<float>();
  const float* const b = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  ForLines(lines, d, [&](int64_t i) {
    NormalizeLine(data + i * x.stride(0), {means != nullptr ? means[i] : 0.0f, scales[i]}, w, b, d, out + i * d);
  });
  return y;
}

at::Tensor RotateLines(const at::Tensor& x, const Angles& angles) {
  const int64_t lines = x.size(0), heads = x.size(1), d = x.size(2);
  at::Tensor y = at::empty(x.sizes(), x.options());
  float* const out = y.mutable_data_ptr<float>();
  const float* const data = x.const_data_ptr<float>();
  const float* const cos = angles.cos.const_data_ptr<float>();
  const float* const sin = angles.sin.const_data_ptr<float>();
  ForLines(lines, heads * d, [&](int64_t i) {
    for (int64_t head = 0; head < heads; ++head)
      RotateHead(data + i * x.stride(0) + head * x.stride(1), cos + i * d / 2, sin + i * d / 2, d / 2, out + (i * heads + head) * d);
  });
  return y;
}

at::Tensor GateLines(const at::Tensor& gate, const at::Tensor& up) {
  const int64_t lines = gate.size(0), n = gate.size(1);
  at::Tensor y = at::empty({lines, n}, gate.options());
  float* const out = y.mutable_data_ptr<float>();
  const float* const g = gate.const_data_ptr<float>();
  const float* const u = up.const_data_ptr<float>();
  ForLines(lines, n, [&](int64_t i) { GateLine(g + i * gate.stride(0), u + i * up.stride(0), n, out + i * n); });
  return y;
}

bool CanAddLines(const at::Tensor& out, const at::Tensor& x) {
  const bool watched = c10::GradMode::is_enabled() && (out.requires_grad() || x.requires_grad());
  return HasLineKernels(out) && HasLineKernels(x) && out.dim() == 2 && out.is_contiguous() && out.sizes() == x.sizes() && !watched;
}

at::Tensor AddLines(at::Tensor out, const at::Tensor& x) {
  const int64_t lines = out.size(0), n = out.size(1);
  float* const sum = out.mutable_data_ptr<float>();
  const float* const data = x.const_data_ptr<float>();
  ForLines(lines, n, [&](int64_t i) { AddLine(data + i * x.stride(0), n, sum + i * n); });
  return out;
}

bool HasHalfLineKernels(const at::Tensor& x) {
  return HasAvx512() && x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && x.dim() == 2 && x.is_contiguous() &&
         x.size(1) % (2 * kLanes) == 0;
}

at::Tensor GateHalfLines(const at::Tensor& both) {
  const int64_t lines = both.size(0), n = both.size(1) / 2;
  at::Tensor y = at::empty({lines, n}, both.options());
  auto* const out = y.mutable_data_ptr<c10::BFloat16>();
  const auto* const data = both.const_data_ptr<c10::BFloat16>();
  ForLines(lines, n, [&](int64_t i) { GateHalfLine(data + 2 * i * n, data + (2 * i + 1) * n, n, out + i * n); });
  return y;
}

at::Tensor AddHalfLines(const at::Tensor& x, const at::Tensor& y) {
  const int64_t lines = y.size(0), n = y.size(1);
  at::Tensor sum = at::empty({lines, n}, x.options());
  float* const out = sum.mutable_data_ptr<float>();
  const float* const data = x.const_data_ptr<float>();
  const auto* const added = y.const_data_ptr<c10::BFloat16>();
  ForLines(lines, n, [&](int64_t i) { AddHalfLine(data + i * x.stride(0), added + i * n, n, out + i * n); });
  return sum;
}

#else

bool CanAddLines(const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor AddLines(at::Tensor out, const at::Tensor&) { return out; }
at::Tensor AddHalfLines(const at::Tensor& x, const at::Tensor&) { return x; }
bool HasHalfLineKernels(const at::Tensor&) { return false; }
at::Tensor GateHalfLines(const at::Tensor& both) { return both; }
bool HasLineKernels(const at::Tensor&) { return false; }
bool HasLineKernels(at::Device, at::ScalarType) { return false; }
LineStatistics StatisticsOf(const at::Tensor&, bool, double) { return {}; }  // these are never called
at::Tensor NormalizeLines(const at::Tensor& x, const LineStatistics&, const at::Tensor&, const at::Tensor&) { return x; }
at::Tensor RotateLines(const at::Tensor& x, const Angles&) { return x; }
at::Tensor GateLines(const at::Tensor& gate, const at::Tensor&) { return gate; }

#endif

}  // namespace fluoroscope::model
