#include "generate/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace fluoroscope::generate {
namespace {

using testing::ElementsAre;

constexpr uint64_t kSeed = 12345;

at::Tensor Logits(const std::vector<float>& values) { return at::tensor(values, at::kFloat); }

// How often each token is drawn.
std::map<int64_t, int> Draws(const SamplingPlan& plan, const std::vector<float>& values, int count) {
  std::map<int64_t, int> counts;
  for (int i = 0; i < count; ++i) {
    at::Tensor logits = Logits(values);
    ++counts[*Sampler(plan, 0, {}).Pick(logits, static_cast<uint32_t>(i))];
  }
  return counts;
}

std::set<int64_t> Kept(const SamplingPlan& plan, const std::vector<float>& values) {
  std::set<int64_t> kept;
  for (const auto& [id, count] : Draws(plan, values, 2000)) kept.insert(id);
  return kept;
}

TEST(SamplerTest, UniformNumbersAreThoseOfTheProtocol) {
  // (tests/numerics works out the numbers themselves.)
  std::set<double> seen;
  for (uint32_t sample = 0; sample < 10; ++sample)
    for (uint32_t index = 0; index < 100; ++index) {
      const double u = UniformOf(kSeed, sample, index);
      EXPECT_GE(u, 0);
      EXPECT_LT(u, 1);
      seen.insert(u);
    }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_NE(UniformOf(kSeed, 0, 0), UniformOf(kSeed + 1, 0, 0));
}

TEST(SamplerTest, GreedyTakesTheFirstOfTheLargest) {
  at::Tensor logits = Logits({1, 5, 5, 2});
  EXPECT_EQ(Sampler({}, 0, {}).Pick(logits, 0), 1);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<float> values = {0, 1, 2, -1, 0.5f, -30};
  constexpr int kDraws = 20000;
  for (const double temperature : {0.7, 1.0, 2.5}) {
    const auto counts = Draws({.temperature = temperature, .seed = kSeed}, values, kDraws);
    double total = 0, chi2 = 0;
    for (const float value : values) total += std::exp(value / temperature);
    for (int64_t id = 0; id < 5; ++id) {
      const double expected = kDraws * std::exp(values[static_cast<size_t>(id)] / temperature) / total;
      const double seen = counts.contains(id) ? counts.at(id) : 0;
      chi2 += (seen - expected) * (seen - expected) / expected;
    }
    EXPECT_LT(chi2, 18.5) << temperature;  // 4 degrees of freedom: 1 in 1,000 would be larger
  }
}

TEST(SamplerTest, FiltersKeepWhatTheySay) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 and nothing.
  std::vector<float> values;
  for (const double p : {0.1, 0.4, 0.2, 0.3}) values.push_back(static_cast<float>(std::log(p)));
  values.push_back(-200);
  SamplingPlan plan{.temperature = 1, .seed = kSeed};
  EXPECT_THAT(Kept(plan, values), ElementsAre(0, 1, 2, 3));
  plan.top_k = 2;
  EXPECT_THAT(Kept(plan, values), ElementsAre(1, 3));
  plan = {.temperature = 1, .top_p = 0.69, .seed = kSeed};
  EXPECT_THAT(Kept(plan, values), ElementsAre(1, 3));
  plan.top_p = 0.71;  // 0.4 and 0.3 are not enough
  EXPECT_THAT(Kept(plan, values), ElementsAre(1, 2, 3));
  plan.top_p = 1e-9;  // the most likely one always stays
  EXPECT_THAT(Kept(plan, values), ElementsAre(1));
  plan = {.temperature = 1, .min_p = 0.6, .seed = kSeed};
  EXPECT_THAT(Kept(plan, values), ElementsAre(1, 3));
  plan = {.temperature = 1, .min_p = 1, .seed = kSeed};
  EXPECT_THAT(Kept(plan, values), ElementsAre(1));
  plan = {.temperature = 1, .top_k = 3, .top_p = 0.5, .seed = kSeed};  // of 0.4, 0.3, 0.2 half is 0.45
  EXPECT_THAT(Kept(plan, values), ElementsAre(1, 3));
}

TEST(SamplerTest, TopPOfManyEqualTokensSortsAsFarAsItMust) {
  SamplingPlan plan{.temperature = 1, .top_p = 0.9, .seed = kSeed};
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = -static_cast<float>(i) * 0.01f;
  double total = 0, sum = 0;
  for (const float value : values) total += std::exp(value);
  int64_t kept = 0;
  while (sum < 0.9 * total) sum += std::exp(values[static_cast<size_t>(kept++)]);
  for (const int64_t id : Kept(plan, values)) EXPECT_LT(id, kept);
}

TEST(SamplerTest, TiesOfTheKthStay) {
  const SamplingPlan plan{.temperature = 1, .top_k = 2, .seed = kSeed};
  EXPECT_THAT(Kept(plan, {1, 3, 1, 1, 0}), ElementsAre(0, 1, 2, 3));
}

TEST(SamplerTest, ThePenaltyMakesWhatWasSaidLessLikely) {
  const SamplingPlan plan{.repetition_penalty = 2};
  Sampler sampler(plan, 0, {1, 1});
  at::Tensor logits = Logits({1.5f, 2, -1});
  EXPECT_EQ(sampler.Pick(logits, 0), 0);
  EXPECT_EQ(logits[1].item<float>(), 1) << "once, however often it was said";
  sampler.Said(2);
  logits = Logits({-3, -3, -1});
  EXPECT_EQ(sampler.Pick(logits, 1), 2);
  EXPECT_EQ(logits[2].item<float>(), -2);
  EXPECT_EQ(logits[1].item<float>(), -6);
}

TEST(SamplerTest, ExtremeLogits) {
  const SamplingPlan plan{.temperature = 1e-6, .seed = kSeed};
  at::Tensor logits = Logits({-1e30f, 1e4f, 1e4f - 1});
  EXPECT_EQ(Sampler(plan, 0, {}).Pick(logits, 0), 1);
}

TEST(SamplerTest, LogitsThatAreNoNumbersGiveNoToken) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const SamplingPlan& plan : {SamplingPlan{}, SamplingPlan{.temperature = 1, .top_k = 2, .top_p = 0.5, .seed = kSeed}}) {
    for (const std::vector<float>& values : {std::vector<float>{1, nan, 2}, {1, inf, 2}, {-inf, -inf, -inf}}) {
      at::Tensor logits = Logits(values);
      EXPECT_EQ(Sampler(plan, 0, {}).Pick(logits, 0), std::nullopt);
    }
    at::Tensor logits = Logits({-inf, 3, -inf});
    EXPECT_EQ(Sampler(plan, 0, {}).Pick(logits, 0), 1);
  }
}

}  // namespace
}  // namespace fluoroscope::generate
