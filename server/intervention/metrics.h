// Scalars computed from a row's logits, in float32, with everything they need already resolved. To add a metric: its struct here, and its
// lines in the family it belongs to: column_metrics.cc (some logits are enough), vocabulary_metrics.cc (all are needed).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <variant>
#include <vector>

#include "intervention/edit.h"

namespace fluoroscope::intervention {

// mean over `right` of the logits minus mean over `wrong`. With several tokens on a side it is the difference of the means, not of sums.
struct LogitDifference {
  std::vector<int64_t> right;
  std::vector<int64_t> wrong;
};

struct MeanLogit {
  std::vector<int64_t> tokens;
};

// Of the next token being one of these.
struct Probability {
  std::vector<int64_t> tokens;  // each once
  bool logarithm = false;
};

struct CrossEntropy {
  std::vector<int64_t> targets;  // one per position
};

struct ToReference {
  enum class Measure { kKl, kJs, kL2 };
  Measure measure = Measure::kKl;
  Kept reference = 0;  // f32 [positions, vocabulary]: log-probabilities, for kL2 logits
};

struct Rank {
  int64_t token = 0;
};

// The product of a kept value of the row itself with a direction.
struct ReadOut {
  Kept value = 0;
  at::Tensor direction;  // f32 [units]
};

using Metric = std::variant<LogitDifference, MeanLogit, Probability, CrossEntropy, ToReference, Rank, ReadOut>;

// Whether it needs the logits of all tokens.
bool NeedsVocabulary(const Metric& metric);

}  // namespace fluoroscope::intervention
