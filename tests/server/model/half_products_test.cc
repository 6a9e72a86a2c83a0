#include "model/half_products.h"

#include <gtest/gtest.h>

#include <limits>

#include "model/line_kernels.h"

namespace fluoroscope::model {
namespace {

// LibTorch's own conversion is the other side.
TEST(HalfProductsTest, GatedLinesRoundAsLibTorchDoes) {
  const int64_t n = 96;
  at::manual_seed(1);
  const at::Tensor both = at::randn({50, 2 * n}).mul_(at::randn({50, 1}).exp_()).to(at::kBFloat16);
  if (!HasHalfLineKernels(both)) GTEST_SKIP() << "this processor has no AVX-512";
  const at::Tensor gate = both.narrow(1, 0, n).to(at::kFloat), up = both.narrow(1, n, n).to(at::kFloat);
  EXPECT_TRUE(at::equal(GateHalfLines(both), GateLines(gate, up).to(at::kBFloat16)));
}

TEST(HalfProductsTest, NotANumberStaysOne) {
  at::Tensor both = at::ones({1, 64}, at::kBFloat16);
  if (!HasHalfLineKernels(both)) GTEST_SKIP() << "this processor has no AVX-512";
  both[0][3] = std::numeric_limits<float>::quiet_NaN();
  both[0][37] = std::numeric_limits<float>::infinity();
  const at::Tensor post = GateHalfLines(both).to(at::kFloat);
  EXPECT_TRUE(post[0][3].isnan().item<bool>());
  EXPECT_TRUE(post[0][5].isinf().item<bool>());
  EXPECT_FALSE(post[0][4].isnan().item<bool>());
}

TEST(HalfProductsTest, AddedLinesAreTheSumInFloat32) {
  const at::Tensor x = at::randn({7, 64}), y = at::randn({7, 64}).to(at::kBFloat16);
  if (!HasHalfLineKernels(y)) GTEST_SKIP() << "this processor has no AVX-512";
  EXPECT_TRUE(at::equal(AddHalfLines(x, y), x + y.to(at::kFloat)));
}

}  // namespace
}  // namespace fluoroscope::model
