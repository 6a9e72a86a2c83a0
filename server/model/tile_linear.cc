#include "model/tile_linear.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "model/bfloat16_parts.h"
#include "model/block_shares.h"
#include "model/line_gradients.h"
#include "model/short_linear.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

using bfloat16_parts::kParts;
using bfloat16_parts::kStep;

// Below, reading the weights is most of the work, and ShortLinear does that better.
constexpr int64_t kMinRows = 25;

// A tile holds 16 rows of x, or 16 rows of weights, by 32 inputs; a tile of sums is 16 by 16 float32. Each takes 1 KiB.
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileSize = kTileRows * kStep;
constexpr int64_t kSumsSize = kTileRows * kTileRows;
// Rows of weights that a thread splits and then uses for all rows of x in the block: two tiles.
constexpr int64_t kWeightRows = 2 * kTileRows;
// Rows and inputs of x that are split at once, for all threads: 1.1 MiB, which stay in each core's second-level cache beside the weights.
constexpr int64_t kMaxTiles = 16;
constexpr int64_t kMaxSteps = 24;

#define FS_AMX __attribute__((target("avx512f,amx-tile,amx-bf16")))

// Working memory of the calling thread's products, its own until the thread ends: 1.1 MiB and 151 KiB for each thread that takes part.
// Like what MKL takes for itself it belongs to no request and is not counted.
class Scratch {
 public:
  static Scratch& OfThisThread(int64_t threads) {
    thread_local Scratch scratch;
    scratch.Grow(threads);
    return scratch;
  }

  uint16_t* inputs() { return memory_.get(); }
  uint16_t* weights(int64_t thread) { return memory_.get() + kInputs + thread * kEach; }
  float* sums(int64_t thread) { return reinterpret_cast<float*>(weights(thread) + kWeights); }

 private:
  struct Free {
    void operator()(uint16_t* memory) const { operator delete(memory, kAlignment); }
  };
  static constexpr std::align_val_t kAlignment{4096};
  static constexpr int64_t kInputs = kMaxTiles * kMaxSteps * kParts * kTileSize;
  static constexpr int64_t kWeights = 2 * kMaxSteps * kParts * kTileSize;
  static constexpr int64_t kEach = kWeights + 4 * kSumsSize * static_cast<int64_t>(sizeof(float) / sizeof(uint16_t));

  void Grow(int64_t threads) {
    if (threads <= threads_) return;
    memory_.reset();
    threads_ = 0;
    memory_.reset(static_cast<uint16_t*>(operator new(static_cast<size_t>(kInputs + threads * kEach) * sizeof(uint16_t), kAlignment)));
    threads_ = threads;
  }

  std::unique_ptr<uint16_t, Free> memory_;
  int64_t threads_ = 0;
};

// 16 rows of x from `x`, of which `rows` are there, as the unit wants the second factor: for each step of 32 inputs and each part, pairs of
// inputs by rows. A row with a number that has no three parts is marked in `beyond`.
FS_AVX512 void SplitInputs(const float* x, int64_t rows, int64_t in, int64_t begin, int64_t steps, uint16_t* out, uint8_t* beyond) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), limit = _mm512_set1_epi32(0x7F000000);  // 2^127
  for (int64_t s = 0; s < steps; ++s, out += kParts * kTileSize) {
    __m512i tiles[kParts][kTileRows] = {};
    for (int64_t i = 0; i < std::min(rows, kTileRows); ++i) {
      __m512 low, high;
      __m512i parts[kParts];
      bfloat16_parts::Load(x + i * in + begin + s * kStep, in - begin - s * kStep, low, high);
      const __m512i a = _mm512_and_si512(_mm512_castps_si512(low), magnitude), b = _mm512_and_si512(_mm512_castps_si512(high), magnitude);
      if (_mm512_cmpge_epi32_mask(_mm512_max_epi32(a, b), limit) != 0) beyond[i] = 1;
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
}

// 16 rows of weights from `w`, of which `rows` are there: for each step and each part, rows by inputs.
FS_AVX512 void SplitWeights(const float* w, int64_t rows, int64_t in, int64_t begin, int64_t steps, uint16_t* out) {
  for (int64_t s = 0; s < steps; ++s, out += kParts * kTileSize) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      __m512i parts[kParts] = {};
      if (i < rows) {
        const float* from = w + i * in + begin + s * kStep;
        __m512 low, high;
        bfloat16_parts::Load(from, in - begin - s * kStep, low, high);
        bfloat16_parts::Split(low, high, parts);
        // The thread's next rows follow these in memory.
        _mm_prefetch(reinterpret_cast<const char*>(from + kWeightRows * in), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(from + kWeightRows * in + 16), _MM_HINT_T1);
      }
#pragma GCC unroll 3
      for (int p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTileSize + i * kStep, parts[p]);
    }
  }
}

// The unit's shapes: eight tiles of 16 rows of 64 bytes. The layout is the instruction's.
struct alignas(64) TileShapes {
  TileShapes() {
    std::fill_n(bytes_of_row, 8, 64);
    std::fill_n(rows, 8, kTileRows);
  }
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {};
  uint8_t rows[16] = {};
};

// The part numbers of the pairs that are multiplied. The small ones go first, over all inputs, and the large ones are added last: so that
// of the roundings into a sum only in / 32 are of its own size.
#define FS_LOAD_WEIGHTS(tile, which, part) _tile_loadd(tile, w + (((which)*steps + s) * kParts + (part)) * kTileSize, 64)
#define FS_LOAD_INPUTS(tile, which, part) _tile_loadd(tile, x + (((which)*steps + s) * kParts + (part)) * kTileSize, 64)

// sums[i][j] [16 weight rows, 16 rows of x] of two tiles of weights j and two of inputs i.
FS_AMX void MultiplyFour(const uint16_t* w, const uint16_t* x, int64_t steps, float* sums) {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the intrinsics do not tell the compiler what they read
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  // Tiles 4 and 5 hold weights, 6 and 7 inputs.
  const auto multiply = []() __attribute__((target("avx512f,amx-tile,amx-bf16"), always_inline)) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  };
  for (int64_t s = 0; s < steps; ++s) {
    FS_LOAD_WEIGHTS(4, 0, 0);
    FS_LOAD_INPUTS(6, 0, 2);
    FS_LOAD_WEIGHTS(5, 1, 0);
    FS_LOAD_INPUTS(7, 1, 2);
    multiply();
    FS_LOAD_INPUTS(6, 0, 1);
    FS_LOAD_INPUTS(7, 1, 1);
    multiply();
    FS_LOAD_WEIGHTS(4, 0, 1);
    FS_LOAD_WEIGHTS(5, 1, 1);
    multiply();
    FS_LOAD_INPUTS(6, 0, 0);
    FS_LOAD_INPUTS(7, 1, 0);
    multiply();
    FS_LOAD_WEIGHTS(4, 0, 2);
    FS_LOAD_WEIGHTS(5, 1, 2);
    multiply();
  }
  for (int64_t s = 0; s < steps; ++s) {
    FS_LOAD_WEIGHTS(4, 0, 0);
    FS_LOAD_INPUTS(6, 0, 0);
    FS_LOAD_WEIGHTS(5, 1, 0);
    FS_LOAD_INPUTS(7, 1, 0);
    multiply();
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kSumsSize, 64);
  _tile_stored(2, sums + 2 * kSumsSize, 64);
  _tile_stored(3, sums + 3 * kSumsSize, 64);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// The same with one tile of inputs: the same additions in the same order.
FS_AMX void MultiplyTwo(const uint16_t* w, const uint16_t* x, int64_t steps, float* sums) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  _tile_zero(0);
  _tile_zero(1);
  const auto multiply = []() __attribute__((target("avx512f,amx-tile,amx-bf16"), always_inline)) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
  };
  for (int64_t s = 0; s < steps; ++s) {
    FS_LOAD_WEIGHTS(4, 0, 0);
    FS_LOAD_INPUTS(6, 0, 2);
    FS_LOAD_WEIGHTS(5, 1, 0);
    multiply();
    FS_LOAD_INPUTS(6, 0, 1);
    multiply();
    FS_LOAD_WEIGHTS(4, 0, 1);
    FS_LOAD_WEIGHTS(5, 1, 1);
    multiply();
    FS_LOAD_INPUTS(6, 0, 0);
    multiply();
    FS_LOAD_WEIGHTS(4, 0, 2);
    FS_LOAD_WEIGHTS(5, 1, 2);
    multiply();
  }
  for (int64_t s = 0; s < steps; ++s) {
    FS_LOAD_WEIGHTS(4, 0, 0);
    FS_LOAD_INPUTS(6, 0, 0);
    FS_LOAD_WEIGHTS(5, 1, 0);
    multiply();
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kSumsSize, 64);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// sums [16 outputs, 16 rows] into (or added to) y [rows, out], of which `outputs` and `rows` are there.
FS_AVX512 void PutSums(const float* sums, float* y, int64_t out, int64_t outputs, int64_t rows, bool add) {
  __m512i tile[kTileRows];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) tile[i] = _mm512_load_si512(sums + i * kTileRows);
  bfloat16_parts::Transpose(tile);
  const __mmask16 mask = avx512::MaskOf(outputs);
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    if (i >= rows) break;
    const __m512 sum = _mm512_castsi512_ps(tile[i]);
    _mm512_mask_storeu_ps(y + i * out, mask, add ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i * out), sum) : sum);
  }
}

struct Operands {
  const float* x;
  const float* weight;
  float* y;
  int64_t rows, in, out;
};

// A block of x: tiles of rows and steps of inputs.
struct Block {
  int64_t first_tile, tiles, first_step, steps;
};

// y (+)= the block's inputs times 32 rows of weights from `output`.
FS_AMX void MultiplyBlock(const Operands& p, const Block& block, int64_t output, Scratch& scratch) {
  static const TileShapes shapes;
  uint16_t* const weights = scratch.weights(at::get_thread_num());
  float* const sums = scratch.sums(at::get_thread_num());
  const int64_t tile_inputs = block.steps * kParts * kTileSize;
  for (int64_t j = 0; j < 2; ++j) {
    const int64_t first = output + j * kTileRows;
    SplitWeights(p.weight + first * p.in, p.out - first, p.in, block.first_step * kStep, block.steps, weights + j * tile_inputs);
  }
  _tile_loadconfig(&shapes);
  for (int64_t tile = 0; tile < block.tiles; tile += 2) {
    const int64_t count = std::min<int64_t>(block.tiles - tile, 2);
    (count == 2 ? MultiplyFour : MultiplyTwo)(weights, scratch.inputs() + tile * tile_inputs, block.steps, sums);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t row = (block.first_tile + tile + i) * kTileRows, first = output + j * kTileRows;
        if (first < p.out)
          PutSums(sums + (2 * i + j) * kSumsSize, p.y + row * p.out + first, p.out, p.out - first, p.rows - row, block.first_step > 0);
      }
  }
  _tile_release();  // whoever uses the unit next on this thread finds it as new
}

// The kernel lends the unit's state to a process that asks for it, once.
bool HasTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool has = avx512::HasAvx512() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                          syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
}

}  // namespace

bool IsTiled(const at::Tensor& x, const at::Tensor& weight) {
  return x.dim() == 2 && x.size(0) >= kMinRows && x.size(1) > 0 && x.device().is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat && weight.is_contiguous() && !IsRecorded(x) && !IsRecorded(weight) && HasTiles();
}

at::Tensor TileLinear(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor input = x.contiguous();
  at::Tensor y = at::empty({input.size(0), weight.size(0)}, input.options());
  const Operands p{input.const_data_ptr<float>(),
                   weight.const_data_ptr<float>(),
                   y.mutable_data_ptr<float>(),
                   input.size(0),
                   input.size(1),
                   weight.size(0)};
  Scratch& scratch = Scratch::OfThisThread(at::get_num_threads());
  const auto ceil = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t pairs = ceil(p.rows, 2 * kTileRows), steps = ceil(p.in, kStep);
  const int64_t row_blocks = ceil(2 * pairs, kMaxTiles), step_blocks = ceil(steps, kMaxSteps);
  std::vector<uint8_t> beyond(static_cast<size_t>(2 * pairs * kTileRows));
  for (int64_t r = 0; r < row_blocks; ++r)
    for (int64_t s = 0; s < step_blocks; ++s) {
      Block block{2 * (pairs * r / row_blocks), 0, steps * s / step_blocks, 0};
      block.tiles = std::min(2 * (pairs * (r + 1) / row_blocks), ceil(p.rows, kTileRows)) - block.first_tile;
      block.steps = steps * (s + 1) / step_blocks - block.first_step;
      ForEachBlock(block.tiles, [&](int64_t tile) {
        const int64_t row = (block.first_tile + tile) * kTileRows;
        SplitInputs(p.x + row * p.in, p.rows - row, p.in, block.first_step * kStep, block.steps,
                    scratch.inputs() + tile * block.steps * kParts * kTileSize, beyond.data() + row);
      });
      ForEachBlock(ceil(p.out, kWeightRows), [&](int64_t i) { MultiplyBlock(p, block, i * kWeightRows, scratch); });
    }
  for (int64_t row = 0; row < p.rows; ++row)
    if (beyond[static_cast<size_t>(row)] != 0) y.narrow(0, row, 1).copy_(ShortLinear(input.narrow(0, row, 1), weight));
  return y;
}

#else

bool IsTiled(const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor TileLinear(const at::Tensor& x, const at::Tensor& weight) { return at::linear(x, weight); }

#endif

}  // namespace fluoroscope::model
