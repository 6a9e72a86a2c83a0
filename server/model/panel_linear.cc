#include "model/panel_linear.h"

#include <c10/core/GradMode.h>

#include "model/short_linear.h"

#if defined(__x86_64__)

#include <algorithm>
#include <array>
#include <utility>

#include "model/avx512.h"
#include "model/block_shares.h"

namespace fluoroscope::model {
namespace {

using namespace avx512;

// A tile is up to kTile lines by a panel of two vectors of outputs: 28 sums, 2 weights and 1 input fill the 32 vector registers.
constexpr int kTile = 14;
// Lines that lie a multiple of kColliding numbers apart all want the same places of the nearest cache, which are twelve.
constexpr int kCollidingTile = 8;
constexpr int64_t kColliding = 4096 / sizeof(float);
constexpr int64_t kPanel = 2 * kLanes;
// Inputs that are summed up before the next ones' weights are turned round: a panel of so many, and all lines' inputs, wait in the
// second-level cache.
constexpr int64_t kMaxDepth = 768;
// Above, the lines' inputs leave the second-level cache from panel to panel, and the library is as fast.
constexpr int64_t kMaxLines = 512;
// The tiles that fetch the next panel from memory while they compute, so that turning it round does not wait.
constexpr int64_t kFetching = 8;

struct Operands {
  const float* x;
  int64_t lines, stride;  // of x: numbers from line to line
  const float* weight;
  float* y;
  int64_t in, out;
};

FS_AVX512 inline __m512 LowPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

FS_AVX512 inline __m512 HighPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

// Transposes 16 x 16 numbers.
FS_AVX512 __attribute__((always_inline)) inline void TurnRound(__m512 (&r)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = LowPairs(t[i], t[i + 2]);
    r[i + 1] = HighPairs(t[i], t[i + 2]);
    r[i + 2] = LowPairs(t[i + 1], t[i + 3]);
    r[i + 3] = HighPairs(t[i + 1], t[i + 3]);
  }
  // Four by four numbers are in place within each quarter of a vector; now the quarters.
  constexpr int kEven = 0x88, kOdd = 0xDD;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm512_shuffle_f32x4(r[j], r[4 + j], kEven);
    t[4 + j] = _mm512_shuffle_f32x4(r[j], r[4 + j], kOdd);
    t[8 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], kEven);
    t[12 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], kOdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], kEven);
    r[4 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], kEven);
    r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], kOdd);
    r[12 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], kOdd);
  }
}

// The first `depth` numbers of up to 16 weight rows, `stride` apart, as columns: panel[k * kPanel + row]. Rows that are not there are 0.
FS_AVX512 void PutColumns(const float* weight, int64_t stride, int64_t rows, int64_t depth, float* panel) {
  for (int64_t k = 0; k < depth; k += kLanes) {
    const __mmask16 mask = MaskOf(depth - k);
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = i < rows ? _mm512_maskz_loadu_ps(mask, weight + i * stride + k) : _mm512_setzero_ps();
    TurnRound(r);
    const int64_t columns = std::min(kLanes, depth - k);
    for (int64_t i = 0; i < columns; ++i) _mm512_store_ps(panel + (k + i) * kPanel, r[i]);
  }
}

// A part of a tile: `depth` inputs of its lines times a panel.
struct Part {
  const float* x;  // the first line's first input
  int64_t stride;
  const float* panel;
  int64_t depth;
  float* y;  // the first line's first output of the panel
  int64_t out;
  __mmask16 low, high;  // the panel's outputs that are there
  bool adds;            // to what is in y
  const char* fetched;  // memory that is asked for meanwhile: two lines of the cache, `fetch_step` further for each input
  int64_t fetch_step;
};

template <int Lines>
FS_AVX512 void Tile(const Part& p) {
  __m512 sum[Lines][2];
#pragma GCC unroll 14
  for (int i = 0; i < Lines; ++i) {
    sum[i][0] = p.adds ? _mm512_maskz_loadu_ps(p.low, p.y + i * p.out) : _mm512_setzero_ps();
    sum[i][1] = p.adds ? _mm512_maskz_loadu_ps(p.high, p.y + i * p.out + kLanes) : _mm512_setzero_ps();
  }
  // Every third line has a pointer, the two behind it are one and two strides away: that fits the general registers.
  const float* x[] = {p.x, p.x + 3 * p.stride, p.x + 6 * p.stride, p.x + 9 * p.stride, p.x + 12 * p.stride};
  const char* fetched = p.fetched;
  const float* panel = p.panel;
  const int64_t stride = p.stride, fetch_step = p.fetch_step;
  for (int64_t k = 0; k < p.depth; ++k, panel += kPanel) {
    const __m512 low = _mm512_load_ps(panel), high = _mm512_load_ps(panel + kLanes);
    _mm_prefetch(fetched, _MM_HINT_T1);
    _mm_prefetch(fetched + 64, _MM_HINT_T1);
    fetched += fetch_step;
#pragma GCC unroll 14
    for (int i = 0; i < Lines; ++i) {
      const __m512 input = _mm512_set1_ps(x[i / 3][(i % 3) * stride]);
      sum[i][0] = _mm512_fmadd_ps(input, low, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(input, high, sum[i][1]);
    }
#pragma GCC unroll 5
    for (int i = 0; i < (Lines + 2) / 3; ++i) ++x[i];
  }
#pragma GCC unroll 14
  for (int i = 0; i < Lines; ++i) {
    _mm512_mask_storeu_ps(p.y + i * p.out, p.low, sum[i][0]);
    _mm512_mask_storeu_ps(p.y + i * p.out + kLanes, p.high, sum[i][1]);
  }
}

using TileFunction = void (*)(const Part&);

template <int... Lines>
constexpr std::array<TileFunction, sizeof...(Lines)> Tiles(std::integer_sequence<int, Lines...>) {
  return {&Tile<Lines + 1>...};
}
constexpr auto kTiles = Tiles(std::make_integer_sequence<int, kTile>());  // by [lines - 1]

// The outputs [o, o + kPanel) of all lines, as far as they are there.
void Panel(const Operands& p, int64_t o) {
  alignas(64) float panel[kMaxDepth * kPanel];
  const int64_t outputs = std::min(kPanel, p.out - o), vectors = (p.in + kLanes - 1) / kLanes;
  const int64_t parts = (p.in + kMaxDepth - 1) / kMaxDepth;
  const int64_t tile_lines = p.stride % kColliding == 0 ? kCollidingTile : kTile;
  const int64_t tiles = (p.lines + tile_lines - 1) / tile_lines;  // that lines are shared out to evenly
  const int64_t calls = parts * tiles, fetching = std::min(calls, kFetching);
  const int64_t bytes = kPanel * p.in * static_cast<int64_t>(sizeof(float));
  const auto* const next = reinterpret_cast<const char*>(p.weight + (o + kPanel) * p.in);
  Part part{nullptr, p.stride, panel, 0, nullptr, p.out, MaskOf(outputs), MaskOf(std::max<int64_t>(outputs - kLanes, 0)),
            false,   nullptr,  0};
  const auto border = [&](int64_t i) { return std::min(p.in, vectors * i / parts * kLanes); };
  for (int64_t i = 0, call = 0; i < parts; ++i) {
    const int64_t k = border(i);
    part.depth = border(i + 1) - k;
    part.adds = i > 0;
    for (int64_t half = 0; half < 2; ++half)
      PutColumns(p.weight + (o + half * kLanes) * p.in + k, p.in, outputs - half * kLanes, part.depth, panel + half * kLanes);
    for (int64_t tile = 0; tile < tiles; ++tile, ++call) {
      const int64_t first = p.lines * tile / tiles, lines = p.lines * (tile + 1) / tiles - first;
      part.x = p.x + first * p.stride + k;
      part.y = p.y + first * p.out + o;
      part.fetched = call < fetching ? next + bytes * call / fetching : reinterpret_cast<const char*>(part.x);
      part.fetch_step = call < fetching ? bytes / fetching / part.depth : 0;
      kTiles[static_cast<size_t>(lines - 1)](part);
    }
  }
}

}  // namespace

bool IsForPanels(const at::Tensor& x, const at::Tensor& weight) {
  const bool recorded = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  return HasAvx512() && x.device().is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && x.dim() == 2 &&
         x.size(0) > kMaxShortLines && x.size(0) <= kMaxLines && x.size(1) > 0 && weight.is_contiguous() && !recorded;
}

at::Tensor PanelLinear(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor input = x.stride(1) == 1 ? x : x.contiguous();
  at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  const Operands p{input.const_data_ptr<float>(), x.size(0), input.stride(0), weight.const_data_ptr<float>(),
                   y.mutable_data_ptr<float>(),   x.size(1), weight.size(0)};
  ForEachBlock((p.out + kPanel - 1) / kPanel, [&](int64_t panel) { Panel(p, panel * kPanel); });
  return y;
}

}  // namespace fluoroscope::model

#else

namespace fluoroscope::model {

bool IsForPanels(const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor PanelLinear(const at::Tensor& x, const at::Tensor& weight) { return at::linear(x, weight); }

}  // namespace fluoroscope::model

#endif
