#include "model/short_linear.h"

#include <gtest/gtest.h>

#include "model/short_linear_gradient.h"

namespace fluoroscope::model {
namespace {

// Every tile shape and remainder, against the same product in float64.
TEST(ShortLinearTest, EqualsTheProductInFloat64) {
  at::manual_seed(3);
  for (const int64_t in : {1, 15, 16, 17, 40, 576})
    for (const int64_t out : {1, 2, 3, 47, 48, 50, 301})
      for (const int64_t rows : {1, 2, 7, 8, 9, 14, 17, 31, 48}) {
        const at::Tensor x = at::randn({rows, in}), weight = at::randn({out, in});
        if (!IsShort(x, weight)) GTEST_SKIP() << "this processor has no AVX-512";
        const at::Tensor exact = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
        // Rounding grows with the sum of the terms' sizes, not with the result, which may cancel.
        const at::Tensor size = at::matmul(x.abs(), weight.abs().t()).to(at::kDouble);
        EXPECT_LT(((ShortLinear(x, weight).to(at::kDouble) - exact).abs() / size).max().item<double>(), 1e-6)
            << rows << "x" << in << "x" << out;
      }
}

TEST(ShortLinearTest, ARowDoesNotDependOnTheOthers) {
  const at::Tensor x = at::randn({20, 100}), weight = at::randn({64, 100});
  if (!IsShort(x, weight)) GTEST_SKIP() << "this processor has no AVX-512";
  const at::Tensor all = ShortLinear(x, weight);
  for (const int64_t rows : {1, 5, 13})
    EXPECT_TRUE(at::equal(ShortLinear(x.narrow(0, 20 - rows, rows), weight), all.narrow(0, 20 - rows, rows)));
}

TEST(ShortLinearTest, ItsGradientEqualsTheTransposedProductInFloat64) {
  at::manual_seed(4);
  for (const int64_t in : {1, 15, 16, 47, 48, 49, 100, 576})
    for (const int64_t out : {1, 2, 95, 96, 97, 301})
      for (const int64_t rows : {1, 2, 7, 8, 9, 14, 31, 48}) {
        const at::Tensor gradient = at::randn({rows, out}), weight = at::randn({out, in});
        if (!IsShort(at::empty({rows, in}), weight)) GTEST_SKIP() << "this processor has no AVX-512";
        const at::Tensor exact = at::matmul(gradient.to(at::kDouble), weight.to(at::kDouble));
        const at::Tensor size = at::matmul(gradient.abs(), weight.abs()).to(at::kDouble);
        EXPECT_LT(((ShortLinearGradient(gradient, weight).to(at::kDouble) - exact).abs() / size).max().item<double>(), 2e-6)
            << rows << "x" << out << "x" << in;
      }
}

TEST(ShortLinearTest, LeavesOthersToTheLibrary) {
  const at::Tensor weight = at::randn({8, 4});
  EXPECT_FALSE(IsShort(at::randn({100, 4}), weight));
  EXPECT_FALSE(IsShort(at::randn({2, 4}).to(at::kBFloat16), weight.to(at::kBFloat16)));
  EXPECT_FALSE(IsShort(at::randn({2, 8}), weight.t()));
  EXPECT_FALSE(IsShort(at::randn({2, 4}), at::randn({8, 4}).set_requires_grad(true)));
  EXPECT_FALSE(IsShort(at::randn({2, 4}).to(at::kMeta), weight.to(at::kMeta)));
}

}  // namespace
}  // namespace fluoroscope::model
