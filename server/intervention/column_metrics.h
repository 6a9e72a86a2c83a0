// Metrics that are weighted sums of a few logits.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "intervention/metrics.h"
#include "model/model.h"

namespace fluoroscope::intervention {

struct WeightedToken {
  int64_t token;
  double weight;
};

// The logits a metric is the weighted sum of; none for metrics of other families.
std::vector<WeightedToken> WeightedTokensOf(const Metric& metric);

// One value to compute: a metric at a line of the matrix that the unembedding multiplies.
struct ColumnReading {
  int64_t line;
  std::vector<WeightedToken> tokens;
  double* value;
};

// How many of the readings (from the first) one product can take: lines times distinct tokens stay bounded, and so do tokens.
size_t ReadingsPerProduct(std::span<const ColumnReading> readings);
// The most tokens in one product, unless a single reading has more.
inline constexpr size_t kTokensPerProduct = 4096;

// Computes them all with one product of their lines of `normalized` [lines, d_model] and their columns of the unembedding.
void Evaluate(const model::Model& model, const at::Tensor& normalized, std::span<const ColumnReading> readings);

}  // namespace fluoroscope::intervention
