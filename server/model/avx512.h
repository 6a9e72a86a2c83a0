// What the hand-written CPU kernels share. Include only from files that are compiled for x86-64; every function is for AVX-512 and must be
// called only after HasAvx512().
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace fluoroscope::model::avx512 {

#define FS_AVX512 __attribute__((target("avx512f")))

inline constexpr int64_t kLanes = 16;

inline bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
}

// The first `lanes` of a vector, at most all.
FS_AVX512 inline __mmask16 MaskOf(int64_t lanes) { return lanes >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << lanes) - 1); }

// e^x: 2^n times a polynomial of the rest in [-ln2/2, ln2/2] (Cephes' expf coefficients; 2 ulp). 0 below -87, infinity above 88.
FS_AVX512 inline __m512 Exp(__m512 x) {
  const __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
  // ln 2 in two parts, so that the subtraction is exact.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (const float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
  p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r), _mm512_set1_ps(1.0f));
  return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), tiny, _mm512_setzero_ps());
}

}  // namespace fluoroscope::model::avx512

#endif
