// A float32 as the sum of three bfloat16: 24 bits of a number are three times eight. The product of two numbers is then that of their
// parts, and of its nine terms the six largest are enough: what is left out is below 2^-23 of the product, its last bit (Henry, Tang and
// Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019, "BF16x3").
// Include only from files that are compiled for x86-64; every function is for AVX-512.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "model/avx512.h"

namespace fluoroscope::model::bfloat16_parts {

inline constexpr int kParts = 3;
// Numbers that are split at once. Their order inside a part is the instruction set's convenience (number i, then number 16 + i): sums of
// products do not mind, as long as both factors have it.
inline constexpr int64_t kStep = 32;

// parts[p]: the p-th parts of 32 numbers, largest first. Exact for every finite number below 2^127 whose last bit is not denormal.
[[gnu::always_inline]] FS_AVX512 inline void Split(__m512 low, __m512 high, __m512i parts[kParts]) {
  const __m512i half = _mm512_set1_epi32(0x8000), top = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
  // The first part is rounded, so that what is left has either sign and what the products leave out has no preferred one.
  __m512i a = _mm512_add_epi32(_mm512_castps_si512(low), half), b = _mm512_add_epi32(_mm512_castps_si512(high), half);
#pragma GCC unroll 3
  for (int p = 0; p < kParts; ++p) {
    a = _mm512_and_si512(a, top);
    b = _mm512_and_si512(b, top);
    parts[p] = _mm512_or_si512(b, _mm512_srli_epi32(a, 16));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(a));
    high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
    a = _mm512_castps_si512(low);
    b = _mm512_castps_si512(high);
  }
}

// The next 32 numbers of a line, of which `left` are there; the others count as 0.
[[gnu::always_inline]] FS_AVX512 inline void Load(const float* x, int64_t left, __m512& low, __m512& high) {
  if (left >= kStep) {
    low = _mm512_loadu_ps(x);
    high = _mm512_loadu_ps(x + 16);
  } else {
    low = _mm512_maskz_loadu_ps(avx512::MaskOf(left), x);
    high = left > 16 ? _mm512_maskz_loadu_ps(avx512::MaskOf(left - 16), x + 16) : _mm512_setzero_ps();
  }
}

// A square of 16 by 16 32-bit numbers: rows become columns.
[[gnu::always_inline]] FS_AVX512 inline void Transpose(__m512i rows[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // rows[4 i + c] now holds, of rows 4 i to 4 i + 3, the columns c, 4 + c, 8 + c and 12 + c.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88), b = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xDD);
    const __m512i d = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88), e = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xDD);
    t[c] = _mm512_shuffle_i32x4(a, d, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(a, d, 0xDD);
    t[12 + c] = _mm512_shuffle_i32x4(b, e, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = t[i];
}

}  // namespace fluoroscope::model::bfloat16_parts

#endif
