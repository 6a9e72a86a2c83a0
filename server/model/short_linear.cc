#include "model/short_linear.h"

#include <c10/core/GradMode.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <utility>

#include "model/block_shares.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

// Above, the library's reordering pays for itself.
constexpr int64_t kMaxRows = 48;
// A tile is kOutputs weight rows by up to kMaxTile input rows: 24 sums, 3 weights and 1 input fill the 32 vector registers.
constexpr int kOutputs = 3;
constexpr int kMaxTile = 8;
// Weight rows that a thread goes through for one tile of inputs before the next tile: they wait in the second-level cache.
constexpr int64_t kBlock = 48;
// One input row alone is as fast as memory gives its weights, and that wants several places of a block read in turn, each some lines
// ahead: 36.3 GB/s with two threads where rows that lie side by side gave 35.4 and only reading 37.5.
constexpr int kPlaces = 4;
constexpr int64_t kAhead = 2048 / sizeof(float);
constexpr int64_t kLanes = 16;

struct Operands {
  const float* x;
  const float* weight;
  float* y;
  int64_t in, out;
};

// y[row + i][o + j * stride] for i < Rows, j < Outputs.
template <int Rows, int Outputs>
__attribute__((target("avx512f"))) void Tile(const Operands& p, int64_t row, int64_t o, int64_t stride) {
  __m512 sum[Rows][Outputs];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Outputs; ++j) sum[i][j] = _mm512_setzero_ps();
  const float* x = p.x + row * p.in;
  const float* w = p.weight + o * p.in;
  const int64_t place = stride * p.in;
  const auto step = [&](int64_t k, __mmask16 mask) __attribute__((target("avx512f"), always_inline)) {
    __m512 weights[Outputs];
#pragma GCC unroll 8
    for (int j = 0; j < Outputs; ++j) {
      weights[j] = _mm512_maskz_loadu_ps(mask, w + j * place + k);
      if (Rows == 1 && Outputs == kPlaces)
        _mm_prefetch(reinterpret_cast<const char*>(w + j * place + k + kAhead), _MM_HINT_T1);
      else  // the next tile's weights follow these in memory; asking for them now hides their way here
        _mm_prefetch(reinterpret_cast<const char*>(w + (Outputs + j) * p.in + k), _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const __m512 input = _mm512_maskz_loadu_ps(mask, x + i * p.in + k);
#pragma GCC unroll 8
      for (int j = 0; j < Outputs; ++j) sum[i][j] = _mm512_fmadd_ps(input, weights[j], sum[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= p.in; k += kLanes) step(k, 0xFFFF);
  if (k < p.in) step(k, static_cast<__mmask16>((1u << (p.in - k)) - 1));
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Outputs; ++j) p.y[(row + i) * p.out + o + j * stride] = _mm512_reduce_add_ps(sum[i][j]);
}

using TileFunction = void (*)(const Operands&, int64_t, int64_t, int64_t);

template <int Outputs, int... Rows>
constexpr std::array<TileFunction, sizeof...(Rows)> Tiles(std::integer_sequence<int, Rows...>) {
  return {&Tile<Rows + 1, Outputs>...};
}

// Tiles by [rows - 1], for a full and for a single output.
constexpr auto kFullTiles = Tiles<kOutputs>(std::make_integer_sequence<int, kMaxTile>());
constexpr auto kSingleTiles = Tiles<1>(std::make_integer_sequence<int, kMaxTile>());

// One input row for the outputs [begin, end).
void OneRow(const Operands& p, int64_t begin, int64_t end) {
  const int64_t size = (end - begin) / kPlaces;
  for (int64_t o = begin; o < begin + size; ++o) Tile<1, kPlaces>(p, 0, o, size);
  for (int64_t o = begin + kPlaces * size; o < end; ++o) Tile<1, 1>(p, 0, o, 1);
}

// Several rows for the outputs [begin, end).
void Rows(const Operands& p, int64_t rows, int64_t begin, int64_t end) {
  const int64_t tiles = (rows + kMaxTile - 1) / kMaxTile;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    // Rows are shared out evenly: 14 are 7 and 7, not 8 and 6.
    const int64_t first = rows * tile / tiles, count = rows * (tile + 1) / tiles - first;
    int64_t o = begin;
    for (; o + kOutputs <= end; o += kOutputs) kFullTiles[static_cast<size_t>(count - 1)](p, first, o, 1);
    for (; o < end; ++o) kSingleTiles[static_cast<size_t>(count - 1)](p, first, o, 1);
  }
}

}  // namespace

bool IsShort(const at::Tensor& x, const at::Tensor& weight) {
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  return has_avx512 && x.device().is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && x.dim() == 2 &&
         x.size(0) <= kMaxRows && weight.is_contiguous() && !(c10::GradMode::is_enabled() && weight.requires_grad());
}

at::Tensor ShortLinear(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor input = x.contiguous();
  at::Tensor y = at::empty({input.size(0), weight.size(0)}, input.options());
  const Operands p{input.const_data_ptr<float>(), weight.const_data_ptr<float>(), y.mutable_data_ptr<float>(), input.size(1),
                   weight.size(0)};
  const int64_t rows = input.size(0);
  ForEachBlock((p.out + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, p.out);
    if (rows == 1)
      OneRow(p, begin, end);
    else
      Rows(p, rows, begin, end);
  });
  return y;
}

#else

bool IsShort(const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor ShortLinear(const at::Tensor& x, const at::Tensor& weight) { return at::linear(x, weight); }

#endif

}  // namespace fluoroscope::model
