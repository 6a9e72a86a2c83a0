// Which token comes next. The order of the steps and their meaning at the borders are those of transformers' generate().
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <unordered_set>
#include <vector>

#include "generate/plan.h"

namespace fluoroscope::generate {

// The number in [0, 1) that a token's draw takes: see Sampling.seed in inference.proto.
double UniformOf(uint64_t seed, uint32_t sample, uint32_t index);

// Of one continuation; used on the executor's thread. What LibTorch throws passes through, and leaves it as it was.
class Sampler {
 public:
  // `prompt`: ids that the repetition penalty counts as said.
  Sampler(const SamplingPlan& plan, uint32_t sample, const std::vector<int64_t>& prompt);

  // The id of token number `index`; nullopt when the logits have no largest finite number. `logits` f32 [vocabulary], contiguous, on the
  // CPU; the penalty is written into them.
  std::optional<int64_t> Pick(at::Tensor& logits, uint32_t index) const;

  // The token was taken.
  void Said(int64_t id);

 private:
  int64_t Draw(const at::Tensor& logits, uint32_t index) const;

  const SamplingPlan& plan_;
  const uint32_t sample_;
  std::unordered_set<int64_t> said_;  // only with a penalty
};

}  // namespace fluoroscope::generate
