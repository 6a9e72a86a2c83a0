// Metrics that need the logits of all tokens.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "intervention/metrics.h"

namespace fluoroscope::intervention {

// One value to compute: a metric at a line of `logits`.
struct VocabularyReading {
  int64_t line;
  const Metric* metric;
  size_t position;  // which of the metric's positions
  double* value;
  const std::vector<at::Tensor>* kept;  // where a metric's reference is
};

// A line that other rows are compared with: goes to line `position` of kept[key].
struct ReferenceLine {
  int64_t line;
  Kept key;
  int64_t position;
  bool log_probabilities;  // else logits
  std::vector<at::Tensor>* kept;
};

// Computes them all. `logits` is f32 [lines, vocabulary] and is used up: it may hold something else afterwards.
void Evaluate(at::Tensor logits, std::span<const VocabularyReading> readings, std::span<const ReferenceLine> references);

// Bytes that Evaluate holds at once for each token of the vocabulary, `logits` of so many lines included. `compares`: some readings are
// ranks, or compare with a reference.
int64_t VocabularyBytes(int64_t lines, bool compares, at::Device device);

}  // namespace fluoroscope::intervention
