// The processor's matrix unit (AMX): tiles of bfloat16, multiplied into tiles of float32. For tile_linear.cc; compiled for x86-64 only.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include "model/tile_operands.h"

namespace fluoroscope::model {

// A tile of sums: 16 rows of weights by 16 rows of inputs, float32.
inline constexpr int64_t kSumsSize = kTileRows * kTileRows;

// Whether the processor has one that knows bfloat16 and the system lets this process use it.
bool HasMatrixUnit();

// Holds the calling thread's unit, with eight tiles of 16 rows of 64 bytes; whoever uses it next finds it as new. Only where
// HasMatrixUnit().
class MatrixUnit {
 public:
  MatrixUnit();
  ~MatrixUnit();
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

  // Two tiles of weights by two of inputs, each of `steps` steps, one tile's steps behind the other's (tile_operands.h): four tiles of
  // sums, of both weights for the first inputs, then for the second. Each sum adds up the products of six of the nine pairs of parts.
  void MultiplyFour(const uint16_t* weights, const uint16_t* inputs, int64_t steps, float* sums) const;
  // The same with one tile of inputs; the same additions in the same order.
  void MultiplyTwo(const uint16_t* weights, const uint16_t* inputs, int64_t steps, float* sums) const;

  // Step by step, for whoever splits a step just before it is used. Two tiles of sums, each in two halves that stay in the unit: of the
  // largest pairs, and of the small ones, which so do not disturb the large sums either. Clear first, and Store at the end: the large
  // halves of both tiles and then the small ones.
  void Clear() const;
  // Of two tiles of weights, one behind the other, and one of inputs.
  void AddTwoWeights(const uint16_t* weights, const uint16_t* inputs) const;
  // Of one tile of weights and two of inputs.
  void AddTwoInputs(const uint16_t* weights, const uint16_t* first_inputs, const uint16_t* second_inputs) const;
  void Store(float* sums) const;
};

}  // namespace fluoroscope::model

#endif
