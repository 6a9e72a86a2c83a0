#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "intervention/column_metrics.h"
#include "intervention/vocabulary_metrics.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::intervention {
namespace {

TEST(ColumnMetricsTest, ManyReadingsInOneProduct) {
  const auto model = model::TinyGpt2();
  at::manual_seed(4);
  const at::Tensor normalized = at::randn({9, model->arch.d_model});
  const at::Tensor logits = at::matmul(normalized, model->weights.unembed.weight.t());
  const LogitDifference difference{{1, 2}, {3}};
  double values[9];
  std::vector<ColumnReading> readings;
  for (int64_t line = 0; line < 9; ++line)
    readings.push_back({8 - line, line % 2 ? WeightedTokensOf(difference) : WeightedTokensOf(MeanLogit{{line, 5}}), &values[line]});
  ASSERT_EQ(ReadingsPerProduct(readings), 9u);
  Evaluate(*model, normalized, readings);
  for (int64_t line = 0; line < 9; ++line) {
    const at::Tensor x = logits[8 - line];
    const double expected = line % 2 ? (x[1] + x[2]).item<double>() / 2 - x[3].item<double>() : (x[line] + x[5]).item<double>() / 2;
    EXPECT_NEAR(values[line], expected, 1e-5);
  }
}

TEST(ColumnMetricsTest, AProductStaysBounded) {
  double value = 0;
  std::vector<ColumnReading> same, different;
  for (int64_t line = 0; line < 5000; ++line) {
    same.push_back({line, {{1, 1}, {2, -1}}, &value});
    different.push_back({line, {{2 * line, 1}, {2 * line + 1, -1}}, &value});
  }
  EXPECT_EQ(ReadingsPerProduct(same), 5000u);
  EXPECT_EQ(ReadingsPerProduct(different), 181u);  // 181 lines times 362 columns are 65,522 entries
  std::vector<WeightedToken> many;
  for (int64_t token = 0; token < 9000; ++token) many.push_back({token, 1});
  const std::vector<ColumnReading> huge = {{0, many, &value}, {1, many, &value}};
  EXPECT_EQ(ReadingsPerProduct(huge), 1u) << "one is always taken";
}

TEST(VocabularyMetricsTest, TiesShareTheBetterRank) {
  const Metric first = Rank{0}, tied = Rank{3}, worst = Rank{4};
  double values[3];
  const std::vector<VocabularyReading> readings = {
      {1, &first, 0, &values[0], nullptr}, {1, &tied, 0, &values[1], nullptr}, {1, &worst, 0, &values[2], nullptr}};
  Evaluate(at::tensor({9.f, 9.f, 9.f, 9.f, 9.f, 5.f, 7.f, 1.f, 5.f, -1.f}).view({2, 5}), readings, {});
  EXPECT_EQ(values[0], 2);
  EXPECT_EQ(values[1], 2);
  EXPECT_EQ(values[2], 5);
}

// The slow obvious way: count what is greater; where something can be compared with nothing, there is no rank.
double SlowRank(const std::vector<float>& line, size_t token) {
  double rank = 1;
  for (const float logit : line) {
    if (std::isnan(logit)) return logit;
    if (logit > line[token]) ++rank;
  }
  return rank;
}

TEST(VocabularyMetricsTest, WithANaNThereIsNoRank) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> lines = {{1, 2, 3}, {nan, nan, nan}, {1, nan, 3}, {inf, 2, -inf}, {nan, 2, 3}};
  std::vector<float> flat;
  for (const std::vector<float>& line : lines) flat.insert(flat.end(), line.begin(), line.end());
  const std::vector<Metric> ranks = {Rank{0}, Rank{1}, Rank{2}};
  std::vector<double> values(lines.size() * 3);
  std::vector<VocabularyReading> readings;
  for (size_t i = 0; i < values.size(); ++i) readings.push_back({static_cast<int64_t>(i / 3), &ranks[i % 3], 0, &values[i], nullptr});
  Evaluate(at::tensor(flat).view({static_cast<int64_t>(lines.size()), 3}), readings, {});
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = SlowRank(lines[i / 3], i % 3);
    EXPECT_TRUE(values[i] == expected || (std::isnan(values[i]) && std::isnan(expected))) << i << ": " << values[i] << ", not " << expected;
  }
  EXPECT_TRUE(std::isnan(values[3]));
}

TEST(VocabularyMetricsTest, TinyProbabilitiesKeepTheirLogarithm) {
  const Metric log = Probability{{1}, true}, plain = Probability{{1}, false}, both = Probability{{0, 1}, true};
  double values[3];
  const std::vector<VocabularyReading> readings = {
      {0, &log, 0, &values[0], nullptr}, {0, &plain, 0, &values[1], nullptr}, {0, &both, 0, &values[2], nullptr}};
  Evaluate(at::tensor({500.f, -500.f}).view({1, 2}), readings, {});
  EXPECT_DOUBLE_EQ(values[0], -1000);
  EXPECT_EQ(values[1], 0);
  EXPECT_EQ(values[2], 0);
}

TEST(VocabularyMetricsTest, ReferencesAreKeptAndComparedWith) {
  at::manual_seed(5);
  const at::Tensor logits = at::randn({6, 40}) * 3, other = at::randn({2, 40}) * 3;
  std::vector<at::Tensor> kept = {at::empty({2, 40}), at::empty({2, 40})};
  Evaluate(other.clone(), {},
           std::vector<ReferenceLine>{{0, 0, 1, true, &kept}, {1, 0, 0, true, &kept}, {0, 1, 0, false, &kept}, {1, 1, 1, false, &kept}});
  EXPECT_TRUE(at::allclose(kept[0][1], at::log_softmax(other[0], 0), 1e-5, 1e-6));
  EXPECT_TRUE(kept[1].equal(other));

  const at::Tensor q = at::log_softmax(logits.to(at::kDouble), 1),
                   p = at::log_softmax(other.to(at::kDouble), 1).index({at::tensor({1, 0})});
  using Measure = ToReference::Measure;
  const Metric kl = ToReference{Measure::kKl, 0}, js = ToReference{Measure::kJs, 0}, l2 = ToReference{Measure::kL2, 1};
  double values[6][3];
  std::vector<VocabularyReading> readings;
  for (int64_t line = 0; line < 6; ++line) {
    const size_t position = static_cast<size_t>(line % 2);
    readings.push_back({line, &kl, position, &values[line][0], &kept});
    readings.push_back({line, &js, position, &values[line][1], &kept});
    readings.push_back({line, &l2, position, &values[line][2], &kept});
  }
  Evaluate(logits.clone(), readings, {});
  for (int64_t line = 0; line < 6; ++line) {
    const at::Tensor a = p[line % 2], b = q[line], middle = at::log((a.exp() + b.exp()) / 2);
    EXPECT_NEAR(values[line][0], (a.exp() * (a - b)).sum().item<double>(), 1e-5);
    EXPECT_NEAR(values[line][1], ((a.exp() * (a - middle)).sum() + (b.exp() * (b - middle)).sum()).item<double>() / 2, 1e-5);
    EXPECT_NEAR(values[line][2], (logits[line] - other[line % 2]).norm().item<double>(), 1e-4);
  }
}

}  // namespace
}  // namespace fluoroscope::intervention
