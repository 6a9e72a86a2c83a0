#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "intervention/noise.h"
#include "model/largest.h"

namespace fluoroscope::generate {
namespace {

// Weights of the tokens, relative to the most likely one's, which is 1. Filters set those of the tokens that they remove to 0.
struct Weights {
  float* begin;
  float* end;

  double Sum() const {
    // Four sums side by side: additions wait for each other.
    double sums[4] = {0, 0, 0, 0};
    float* w = begin;
    for (; w + 4 <= end; w += 4)
      for (int i = 0; i < 4; ++i) sums[i] += w[i];
    for (; w != end; ++w) sums[0] += *w;
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  void RemoveBelow(float least) const {
    for (float* w = begin; w != end; ++w)
      if (*w < least) *w = 0;
  }
};

void KeepTopK(const Weights& weights, int64_t k) {
  std::vector<float> sorted(weights.begin, weights.end);
  std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<>());
  weights.RemoveBelow(sorted[static_cast<size_t>(k - 1)]);  // those equal to the k-th stay
}

// Keeps the tokens in front of which, from the most likely one on, there is less than `p` of the probability.
void KeepTopP(const Weights& weights, double p) {
  const double wanted = p * weights.Sum();
  std::vector<float> sorted(weights.begin, weights.end);
  double sum = 0;
  // Only as many as are needed are sorted: usually a few of fifty thousand.
  for (size_t done = 0, next = 64; done < sorted.size(); next *= 4) {
    const size_t to = std::min(next, sorted.size());
    const auto first = sorted.begin() + static_cast<std::ptrdiff_t>(done), last = sorted.begin() + static_cast<std::ptrdiff_t>(to);
    if (to < sorted.size()) std::nth_element(first, last, sorted.end(), std::greater<>());
    std::sort(first, last, std::greater<>());
    for (; done < to; ++done) {
      if (sum >= wanted && done > 0) return weights.RemoveBelow(sorted[done - 1]);
      sum += sorted[done];
    }
  }
}

}  // namespace

double UniformOf(uint64_t seed, uint32_t sample, uint32_t index) {
  const auto words = intervention::Philox({index, sample, 0, 0x746f6b}, seed);
  const uint64_t bits = (uint64_t{words[0]} << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

Sampler::Sampler(const SamplingPlan& plan, uint32_t sample, const std::vector<int64_t>& prompt) : plan_(plan), sample_(sample) {
  for (const int64_t id : prompt) Said(id);
}

void Sampler::Said(int64_t id) {
  if (plan_.repetition_penalty != 1) said_.insert(id);
}

std::optional<int64_t> Sampler::Pick(at::Tensor& logits, uint32_t index) const {
  float* const x = logits.mutable_data_ptr<float>();
  const float penalty = static_cast<float>(plan_.repetition_penalty);
  for (const int64_t id : said_) x[id] = x[id] < 0 ? x[id] * penalty : x[id] / penalty;
  const int64_t best = *model::Largest(logits.unsqueeze(0), 1).second.const_data_ptr<int64_t>();  // of a NaN, if there is one
  if (!std::isfinite(x[best])) return std::nullopt;
  return plan_.temperature == 0 ? best : Draw(logits, index);
}

int64_t Sampler::Draw(const at::Tensor& logits, uint32_t index) const {
  at::Tensor relative = (logits - logits.max()).div_(plan_.temperature).exp_();
  float* const data = relative.mutable_data_ptr<float>();
  const Weights weights{data, data + relative.numel()};
  if (plan_.top_k > 0 && plan_.top_k < relative.numel()) KeepTopK(weights, plan_.top_k);
  if (plan_.top_p < 1) KeepTopP(weights, plan_.top_p);
  if (plan_.min_p > 0) weights.RemoveBelow(static_cast<float>(plan_.min_p));
  const double wanted = UniformOf(plan_.seed, sample_, index) * weights.Sum();
  double sum = 0;
  int64_t last = 0;
  for (int64_t id = 0; id < relative.numel(); ++id) {
    if (data[id] == 0) continue;
    sum += data[id];
    last = id;
    if (sum > wanted) break;
  }
  return last;  // where rounding keeps the sum from getting there: the last token that is left
}

}  // namespace fluoroscope::generate
