#include "model/short_linear_gradient.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/avx512.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

using avx512::kLanes;

// A tile is kVectors vectors of columns by up to kMaxTile rows: 24 sums, 3 weights and 1 gradient fill the 32 vector registers.
constexpr int64_t kVectors = 3;
constexpr int64_t kColumns = kVectors * kLanes;
constexpr int64_t kMaxTile = 8;
// Weight rows that one tile goes through before the next tile: together they stay in the second-level cache.
constexpr int64_t kBlock = 96;
// Weight rows ahead of their use that are asked for; the pieces of a column of tiles lie far apart in memory.
constexpr int64_t kAhead = 12;

struct Operands {
  const float* gradient;
  const float* weight;
  float* result;
  int64_t in, out;
};

// result[row + i][column ..] (+)= sum over o in [begin, end) of gradient[row + i][o] * weight[o][column ..], for i < Rows.
template <int Rows>
FS_AVX512 void Tile(const Operands& p, int64_t row, int64_t column, int64_t begin, int64_t end) {
  __mmask16 mask[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) mask[v] = avx512::MaskOf(std::max<int64_t>(p.in - column - v * kLanes, 0));
  float* const result = p.result + row * p.in + column;
  __m512 sum[Rows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v)
      sum[i][v] = begin == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask[v], result + i * p.in + v * kLanes);
  const float* w = p.weight + begin * p.in + column;
  const float* g = p.gradient + row * p.out;
  for (int64_t o = begin; o < end; ++o, w += p.in) {
    __m512 weights[kVectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) {
      weights[v] = _mm512_maskz_loadu_ps(mask[v], w + v * kLanes);
      _mm_prefetch(reinterpret_cast<const char*>(w + kAhead * p.in + v * kLanes), _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const __m512 factor = _mm512_set1_ps(g[i * p.out + o]);
#pragma GCC unroll 8
      for (int64_t v = 0; v < kVectors; ++v) sum[i][v] = _mm512_fmadd_ps(factor, weights[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) _mm512_mask_storeu_ps(result + i * p.in + v * kLanes, mask[v], sum[i][v]);
}

using TileFunction = void (*)(const Operands&, int64_t, int64_t, int64_t, int64_t);

template <int... Rows>
constexpr std::array<TileFunction, sizeof...(Rows)> Tiles(std::integer_sequence<int, Rows...>) {
  return {&Tile<Rows + 1>...};
}
constexpr auto kTiles = Tiles(std::make_integer_sequence<int, kMaxTile>());  // by [rows - 1]

// All rows for the columns [begin, end).
void Columns(const Operands& p, int64_t rows, int64_t begin, int64_t end) {
  const int64_t tiles = (rows + kMaxTile - 1) / kMaxTile;
  for (int64_t block = 0; block < p.out; block += kBlock)
    for (int64_t column = begin; column < end; column += kColumns)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        // Rows are shared out evenly: 14 are 7 and 7, not 8 and 6.
        const int64_t first = rows * tile / tiles, count = rows * (tile + 1) / tiles - first;
        kTiles[static_cast<size_t>(count - 1)](p, first, column, block, std::min(block + kBlock, p.out));
      }
}

}  // namespace

at::Tensor ShortLinearGradient(const at::Tensor& gradient, const at::Tensor& weight) {
  const at::Tensor input = gradient.contiguous();
  const int64_t rows = input.size(0);
  at::Tensor result = at::empty({rows, weight.size(1)}, input.options());
  const Operands p{input.const_data_ptr<float>(), weight.const_data_ptr<float>(), result.mutable_data_ptr<float>(), weight.size(1),
                   weight.size(0)};
  at::parallel_for(0, (p.in + kColumns - 1) / kColumns, 2,
                   [&](int64_t begin, int64_t end) { Columns(p, rows, begin * kColumns, std::min(end * kColumns, p.in)); });
  return result;
}

#else

at::Tensor ShortLinearGradient(const at::Tensor& gradient, const at::Tensor& weight) { return at::matmul(gradient, weight); }

#endif

}  // namespace fluoroscope::model
