#include "model/tile_operands.h"

#if defined(__x86_64__)

#include <algorithm>

namespace fluoroscope::model {

using bfloat16_parts::kParts;
using bfloat16_parts::kStep;

FS_AVX512 void SplitInputs(const float* x, int64_t rows, int64_t in, Steps steps, uint16_t* out, int32_t* largest) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i most[kTileRows] = {};
  for (int64_t s = 0; s < steps.count; ++s, out += kStepSize) {
    const int64_t first = (steps.first + s) * kStep;
    __m512i tiles[kParts][kTileRows] = {};
    for (int64_t i = 0; i < std::min(rows, kTileRows); ++i) {
      __m512 low, high;
      __m512i parts[kParts];
      bfloat16_parts::Load(x + i * in + first, in - first, low, high);
      const __m512i a = _mm512_and_si512(_mm512_castps_si512(low), magnitude), b = _mm512_and_si512(_mm512_castps_si512(high), magnitude);
      most[i] = _mm512_max_epi32(most[i], _mm512_max_epi32(a, b));
      bfloat16_parts::Split(low, high, parts);
#pragma GCC unroll 3
      for (int p = 0; p < kParts; ++p) tiles[p][i] = parts[p];
    }
#pragma GCC unroll 3
    for (int p = 0; p < kParts; ++p) {
      bfloat16_parts::Transpose(tiles[p]);
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) _mm512_store_si512(out + p * kTileSize + i * kStep, tiles[p][i]);
    }
  }
  for (int64_t i = 0; i < std::min(rows, kTileRows); ++i) largest[i] = std::max(largest[i], _mm512_reduce_max_epi32(most[i]));
}

FS_AVX512 void SplitWeights(const float* weights, int64_t rows, int64_t in, Steps steps, uint16_t* out) {
  for (int64_t s = 0; s < steps.count; ++s, out += kStepSize) {
    const int64_t first = (steps.first + s) * kStep;
    for (int64_t i = 0; i < kTileRows; ++i) {
      __m512i parts[kParts] = {};
      if (i < rows) {
        const float* from = weights + i * in + first;
        __m512 low, high;
        bfloat16_parts::Load(from, in - first, low, high);
        bfloat16_parts::Split(low, high, parts);
        // Rows that the thread comes to soon.
        _mm_prefetch(reinterpret_cast<const char*>(from + kWeightRows * in), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(from + kWeightRows * in + 16), _MM_HINT_T1);
      }
#pragma GCC unroll 3
      for (int p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTileSize + i * kStep, parts[p]);
    }
  }
}

FS_AVX512 void SplitWeightColumns(const float* weights, int64_t columns, int64_t in, int64_t stride, Steps steps, uint16_t* out) {
  const __mmask16 mask = columns > 0 ? avx512::MaskOf(columns) : __mmask16{0};
  for (int64_t s = 0; s < steps.count; ++s, out += kStepSize) {
    const int64_t first = (steps.first + s) * kStep;
    __m512i tiles[2][kTileRows];  // inputs 0 to 15 and 16 to 31 of the step
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t row = first + h * kTileRows + i;
        const float* from = weights + row * stride;
        tiles[h][i] = row < in ? _mm512_maskz_loadu_epi32(mask, from) : _mm512_setzero_si512();
        _mm_prefetch(reinterpret_cast<const char*>(from + kWeightRows), _MM_HINT_T1);
      }
      bfloat16_parts::Transpose(tiles[h]);
    }
    for (int64_t i = 0; i < kTileRows; ++i) {
      __m512i parts[kParts];
      bfloat16_parts::Split(_mm512_castsi512_ps(tiles[0][i]), _mm512_castsi512_ps(tiles[1][i]), parts);
#pragma GCC unroll 3
      for (int p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTileSize + i * kStep, parts[p]);
    }
  }
}

}  // namespace fluoroscope::model

#endif
