// The factors of a product, split into bfloat16 parts (bfloat16_parts.h) and laid out as the processor's matrix unit wants them. For
// tile_linear.cc; compiled for x86-64 only, and called only where the processor has AVX-512.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include "model/bfloat16_parts.h"

namespace fluoroscope::model {

// A tile is what the unit takes of a factor at once: 16 rows of kStep inputs, in bfloat16, 1 KiB. A step's tiles of all parts lie side by
// side, largest part first, and behind them the next step's.
inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileSize = kTileRows * bfloat16_parts::kStep;
inline constexpr int64_t kStepSize = bfloat16_parts::kParts * kTileSize;
// Weights: the rows of two tiles.
inline constexpr int64_t kWeightRows = 2 * kTileRows;

// What of a factor's inputs is wanted, in steps.
struct Steps {
  int64_t first, count;
};

// The second factor: rows of x [rows, in], of which `rows` begin at `x` (at most 16 are taken), as pairs of inputs by rows. largest[i] is
// raised to the bits of row i's largest magnitude, which are ordered as the magnitudes are (infinity and then NaN above all numbers).
void SplitInputs(const float* x, int64_t rows, int64_t in, Steps steps, uint16_t* out, int32_t* largest);

// The first factor: rows of weights [rows, in], of which `rows` begin at `weights`, as rows by inputs; rows that are not there are zeros.
void SplitWeights(const float* weights, int64_t rows, int64_t in, Steps steps, uint16_t* out);

// The same of weights [in, columns] whose columns are the rows wanted: `columns` of them begin at `weights`, lines lie `stride` apart.
void SplitWeightColumns(const float* weights, int64_t columns, int64_t in, int64_t stride, Steps steps, uint16_t* out);

}  // namespace fluoroscope::model

#endif
