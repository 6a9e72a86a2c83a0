#include "model/matrix_unit.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace fluoroscope::model {
namespace {

#define FS_AMX __attribute__((target("avx512f,amx-tile,amx-bf16")))

// The unit's shapes: eight tiles of 16 rows of 64 bytes. The layout is the instruction's.
struct alignas(64) TileShapes {
  constexpr TileShapes() {
    std::fill_n(bytes_of_row, 8, 64);
    std::fill_n(rows, 8, kTileRows);
  }
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {};
  uint8_t rows[16] = {};
};

// GCC does not take the target of a constructor or destructor.
FS_AMX void Configure(const TileShapes& shapes) { _tile_loadconfig(&shapes); }
FS_AMX void Release() { _tile_release(); }

}  // namespace

// Linux lends the unit's state, 8 KiB for each thread, to a process that asks for it.
bool HasMatrixUnit() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool has = avx512::HasAvx512() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                          syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
}

MatrixUnit::MatrixUnit() {
  static constexpr TileShapes shapes;
  Configure(shapes);
}

MatrixUnit::~MatrixUnit() { Release(); }

// Of the pairs of parts the small ones go first, over all inputs, and the largest are added last: of the roundings into a sum only one in
// 32 inputs is then of the sum's own size. In the loops s is the step; the numbers are those of tiles (0 to 3 sums, 4 and 5 weights, 6 and
// 7 inputs) and of parts.
#define FS_LOAD_WEIGHTS(tile, which, part) _tile_loadd(tile, w + ((which)*steps + s) * kStepSize + (part)*kTileSize, 64)
#define FS_LOAD_INPUTS(tile, which, part) _tile_loadd(tile, x + ((which)*steps + s) * kStepSize + (part)*kTileSize, 64)

FS_AMX void MatrixUnit::MultiplyFour(const uint16_t* w, const uint16_t* x, int64_t steps, float* sums) const {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the intrinsics do not tell the compiler what they read
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
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

FS_AMX void MatrixUnit::MultiplyTwo(const uint16_t* w, const uint16_t* x, int64_t steps, float* sums) const {
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

FS_AMX void MatrixUnit::Clear() const {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

#define FS_LOAD(tile, from, part) _tile_loadd(tile, (from) + (part)*kTileSize, 64)

FS_AMX void MatrixUnit::AddTwoWeights(const uint16_t* weights, const uint16_t* inputs) const {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  FS_LOAD(4, weights, 0);
  FS_LOAD(5, weights + kStepSize, 0);
  FS_LOAD(6, inputs, 2);
  FS_LOAD(7, inputs, 1);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 5, 6);
  _tile_dpbf16ps(2, 4, 7);
  _tile_dpbf16ps(3, 5, 7);
  FS_LOAD(6, inputs, 0);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 5, 6);
  FS_LOAD(4, weights, 1);
  FS_LOAD(5, weights + kStepSize, 1);
  _tile_dpbf16ps(2, 4, 7);
  _tile_dpbf16ps(3, 5, 7);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 5, 6);
  FS_LOAD(4, weights, 2);
  FS_LOAD(5, weights + kStepSize, 2);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 5, 6);
}

// Each sum's additions are the same as above, in the same order.
FS_AMX void MatrixUnit::AddTwoInputs(const uint16_t* weights, const uint16_t* first_inputs, const uint16_t* second_inputs) const {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  FS_LOAD(4, weights, 0);
  FS_LOAD(6, first_inputs, 2);
  FS_LOAD(7, second_inputs, 2);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 4, 7);
  FS_LOAD(6, first_inputs, 1);
  FS_LOAD(7, second_inputs, 1);
  FS_LOAD(5, weights, 1);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
  FS_LOAD(6, first_inputs, 0);
  FS_LOAD(7, second_inputs, 0);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
  FS_LOAD(4, weights, 2);
  _tile_dpbf16ps(2, 4, 6);
  _tile_dpbf16ps(3, 4, 7);
}

FS_AMX void MatrixUnit::Store(float* sums) const {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kSumsSize, 64);
  _tile_stored(2, sums + 2 * kSumsSize, 64);
  _tile_stored(3, sums + 3 * kSumsSize, 64);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace fluoroscope::model

#endif
