#include "model/tile_linear.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "model/block_shares.h"
#include "model/matrix_unit.h"
#include "model/packed_rows.h"
#include "model/short_linear.h"
#include "model/short_linear_gradient.h"
#include "model/tile_operands.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

// Below, reading the weights is most of the work, and ShortLinear does that better.
constexpr int64_t kMinRows = 15;

// Rows and inputs of x that are split at once, for all threads: 1.1 MiB, which stay in each core's second-level cache beside the weights.
constexpr int64_t kMaxTiles = 16;
constexpr int64_t kMaxSteps = 24;
// Rows whose largest magnitude lies outside are left to ShortLinear. The first part of a number may be larger than the number, and the unit
// takes what is below 2^-126 for 0: parts, and products of parts.
constexpr int32_t kTooLarge = (127 + 100) << 23;  // the bits of 2^100, and below of 2^-80
constexpr int32_t kTooSmall = (127 - 80) << 23;
// Of these rows so many are done at once that they need little memory, but read the weights as rarely as can be.
constexpr int64_t kLeftAtOnce = 32, kLeftBytes = 256 * 1024;

// Working memory of the calling thread's products, its own until the thread ends: 1.1 MiB and 148 KiB for each thread that takes part.
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
  static constexpr int64_t kInputs = kMaxTiles * kMaxSteps * kStepSize;
  static constexpr int64_t kWeights = 2 * kMaxSteps * kStepSize;
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

// sums [16 outputs, 16 rows] (and others, where there are any) into y [rows, out] (or added to it), of which `outputs` and `rows` are
// there.
FS_AVX512 void PutSums(const float* sums, const float* others, float* y, int64_t out, int64_t outputs, int64_t rows, bool add) {
  __m512i tile[kTileRows];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) tile[i] = _mm512_load_si512(sums + i * kTileRows);
  if (others != nullptr)
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i)
      tile[i] = _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(tile[i]), _mm512_load_ps(others + i * kTileRows)));
  bfloat16_parts::Transpose(tile);
  const __mmask16 mask = avx512::MaskOf(outputs);
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    if (i >= rows) break;
    const __m512 sum = _mm512_castsi512_ps(tile[i]);
    _mm512_mask_storeu_ps(y + i * out, mask, add ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i * out), sum) : sum);
  }
}

// y [rows, out] = x [rows, in] @ weight^T; the weights are [out, in], or for the way back [in, out].
struct Operands {
  const float* x;
  const float* weight;
  float* y;
  int64_t rows, in, out;
  bool is_way_back;
};

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A block of x: tiles of rows and steps of inputs.
struct Block {
  int64_t first_tile, tiles;
  Steps steps;
};

// The weights of 16 outputs.
void SplitTile(const Operands& p, int64_t output, Steps steps, uint16_t* out) {
  if (p.is_way_back)
    SplitWeightColumns(p.weight + output, p.out - output, p.in, p.out, steps, out);
  else
    SplitWeights(p.weight + output * p.in, p.out - output, p.in, steps, out);
}

// y (+)= the block's inputs times 32 rows of weights from `output`.
void MultiplyBlock(const Operands& p, const Block& block, int64_t output, Scratch& scratch) {
  uint16_t* const weights = scratch.weights(at::get_thread_num());
  float* const sums = scratch.sums(at::get_thread_num());
  const int64_t tile_inputs = block.steps.count * kStepSize;
  for (int64_t j = 0; j < 2; ++j) SplitTile(p, output + j * kTileRows, block.steps, weights + j * tile_inputs);
  const MatrixUnit unit;
  for (int64_t tile = 0; tile < block.tiles; tile += 2) {
    const int64_t count = std::min<int64_t>(block.tiles - tile, 2);
    const uint16_t* inputs = scratch.inputs() + tile * tile_inputs;
    if (count == 2)
      unit.MultiplyFour(weights, inputs, block.steps.count, sums);
    else
      unit.MultiplyTwo(weights, inputs, block.steps.count, sums);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t row = (block.first_tile + tile + i) * kTileRows, first = output + j * kTileRows;
        if (first < p.out)
          PutSums(sums + (2 * i + j) * kSumsSize, nullptr, p.y + row * p.out + first, p.out, p.out - first, p.rows - row,
                  block.steps.first > 0);
      }
  }
}

// y = all inputs times 32 rows of weights from `output`, for one tile of rows of x; for two, 16 rows of weights. A step of weights is split
// and used at once: while the unit multiplies one, the next is read and split, and none of them leaves the nearest cache.
void MultiplyFew(const Operands& p, int64_t tiles, int64_t output, Scratch& scratch) {
  uint16_t* const weights = scratch.weights(at::get_thread_num());
  float* const sums = scratch.sums(at::get_thread_num());
  const int64_t steps = CeilDivide(p.in, bfloat16_parts::kStep);
  const MatrixUnit unit;
  unit.Clear();
  for (int64_t s = 0; s < steps; ++s) {
    uint16_t* const split = weights + s % 2 * 2 * kStepSize;
    const uint16_t* const inputs = scratch.inputs() + s * kStepSize;
    SplitTile(p, output, {s, 1}, split);
    if (tiles == 1) {
      SplitTile(p, output + kTileRows, {s, 1}, split + kStepSize);
      unit.AddTwoWeights(split, inputs);
    } else {
      unit.AddTwoInputs(split, inputs, inputs + steps * kStepSize);
    }
  }
  unit.Store(sums);
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t first = tiles == 1 ? output + i * kTileRows : output, row = tiles == 1 ? 0 : i * kTileRows;
    if (first < p.out)
      PutSums(sums + i * kSumsSize, sums + (2 + i) * kSumsSize, p.y + row * p.out + first, p.out, p.out - first, p.rows - row, false);
  }
}

// y, and in the result which rows of it are still to do: those whose numbers are too large or too small for the unit.
std::vector<int64_t> Multiply(const Operands& p) {
  Scratch& scratch = Scratch::OfThisThread(at::get_num_threads());
  const int64_t tiles = CeilDivide(p.rows, kTileRows), pairs = CeilDivide(tiles, 2), steps = CeilDivide(p.in, bfloat16_parts::kStep);
  const bool is_few = tiles <= 2 && 2 * steps <= kMaxTiles * kMaxSteps;  // of one tile or two the same: so are then the bits
  const int64_t row_blocks = CeilDivide(2 * pairs, kMaxTiles), step_blocks = is_few ? 1 : CeilDivide(steps, kMaxSteps);
  std::vector<int32_t> largest(static_cast<size_t>(p.rows));
  for (int64_t r = 0; r < row_blocks; ++r)
    for (int64_t s = 0; s < step_blocks; ++s) {
      const int64_t first_tile = 2 * (pairs * r / row_blocks), first_step = steps * s / step_blocks;
      const Block block{first_tile,
                        std::min(2 * (pairs * (r + 1) / row_blocks), tiles) - first_tile,
                        {first_step, steps * (s + 1) / step_blocks - first_step}};
      ForEachBlock(block.tiles, [&](int64_t tile) {
        const int64_t row = (block.first_tile + tile) * kTileRows;
        SplitInputs(p.x + row * p.in, p.rows - row, p.in, block.steps, scratch.inputs() + tile * block.steps.count * kStepSize,
                    largest.data() + row);
      });
      if (is_few)
        ForEachBlock(CeilDivide(tiles * p.out, kWeightRows), [&](int64_t i) { MultiplyFew(p, tiles, i * kWeightRows / tiles, scratch); });
      else
        ForEachBlock(CeilDivide(p.out, kWeightRows), [&](int64_t i) { MultiplyBlock(p, block, i * kWeightRows, scratch); });
    }
  std::vector<int64_t> left;
  for (int64_t row = 0; row < p.rows; ++row) {
    const int32_t bits = largest[static_cast<size_t>(row)];
    if (bits >= kTooLarge || (bits > 0 && bits < kTooSmall)) left.push_back(row);
  }
  return left;
}

at::Tensor Multiply(const at::Tensor& x, const at::Tensor& weight, bool is_way_back) {
  at::Tensor y = at::empty({x.size(0), weight.size(is_way_back ? 1 : 0)}, x.options());
  const std::vector<int64_t> left = Multiply(Operands{x.const_data_ptr<float>(), weight.const_data_ptr<float>(),
                                                      y.mutable_data_ptr<float>(), x.size(0), x.size(1), y.size(1), is_way_back});
  const int64_t count = static_cast<int64_t>(left.size()), row_bytes = (x.size(1) + y.size(1)) * static_cast<int64_t>(sizeof(float));
  const int64_t at_once = std::clamp<int64_t>(kLeftBytes / row_bytes, 1, kLeftAtOnce);
  for (int64_t begin = 0; begin < count; begin += at_once) {
    const at::Tensor rows = IndexTensor({left.begin() + begin, left.begin() + std::min(begin + at_once, count)}, x.device());
    const at::Tensor lines = x.index_select(0, rows);
    y.index_copy_(0, rows, is_way_back ? ShortLinearGradient(lines, weight) : ShortLinear(lines, weight));
  }
  return y;
}

}  // namespace

bool IsTiled(const at::Tensor& x, const at::Tensor& weight) {
  return x.dim() == 2 && x.size(0) >= kMinRows && x.device().is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat && weight.is_contiguous() && weight.numel() > 0 &&
         !(c10::GradMode::is_enabled() && weight.requires_grad()) && HasMatrixUnit();
}

at::Tensor TileLinear(const at::Tensor& x, const at::Tensor& weight) { return Multiply(x.contiguous(), weight, false); }

at::Tensor TileLinearGradient(const at::Tensor& gradient, const at::Tensor& weight) {
  return Multiply(gradient.contiguous(), weight, true);
}

#else

bool IsTiled(const at::Tensor&, const at::Tensor&) { return false; }
at::Tensor TileLinear(const at::Tensor& x, const at::Tensor& weight) { return at::linear(x, weight); }
at::Tensor TileLinearGradient(const at::Tensor& gradient, const at::Tensor& weight) { return at::matmul(gradient, weight); }

#endif

}  // namespace fluoroscope::model
