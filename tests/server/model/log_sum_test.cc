#include "model/log_sum.h"

#include <gtest/gtest.h>

#include <limits>

namespace fluoroscope::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(LogSumTest, EqualsTheLogarithmInFloat64) {
  at::manual_seed(1);
  for (const int64_t n : {1, 15, 16, 17, 255, 256, 257, 5000, 49152})
    for (const double scale : {0.01, 1.0, 5.0, 100.0, 1e30}) {
      const at::Tensor x = at::randn({3, n}) * scale, exact = at::logsumexp(x.to(at::kDouble), -1, true);
      const at::Tensor error = (LogSumExp(x).to(at::kDouble) - exact).abs() / exact.abs().clamp_min(1);
      EXPECT_LT(error.max().item<double>(), 2e-7) << n << " numbers of size " << scale;
    }
}

TEST(LogSumTest, LinesMayLieApart) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({4, 100});
  EXPECT_TRUE(at::equal(LogSumExp(x.narrow(1, 10, 50)), LogSumExp(x.narrow(1, 10, 50).contiguous())));
  EXPECT_EQ(LogSumExp(x.narrow(0, 0, 0)).size(0), 0);
}

TEST(LogSumTest, InfinitiesAndNoNumbersAreWhatTheyAreInLibTorch) {
  at::Tensor x = at::randn({6, 40});
  x[0][3] = -kInfinity;
  x[1].fill_(-kInfinity);
  x[2][39] = kInfinity;
  x[3][0] = std::numeric_limits<float>::quiet_NaN();
  x[4][1] = kInfinity;
  x[4][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(at::allclose(LogSumExp(x), at::logsumexp(x, -1, true), 1e-6, 1e-6, /*equal_nan=*/true));
}

}  // namespace
}  // namespace fluoroscope::model
