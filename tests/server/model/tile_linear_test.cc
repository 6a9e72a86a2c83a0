#include "model/tile_linear.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "model/short_linear.h"
#include "model/short_linear_gradient.h"

namespace fluoroscope::model {
namespace {

class TileLinearTest : public testing::Test {
  void SetUp() override {
    if (!IsTiled(at::zeros({64, 4}), at::zeros({2, 4}))) GTEST_SKIP() << "this processor has no AMX";
  }
};

at::Tensor InFloat64(const at::Tensor& x, const at::Tensor& weight) { return at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()); }

double RelativeError(const at::Tensor& y, const at::Tensor& exact) {
  return ((y.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
}

// Every shape of the last tile, of the last step and of the blocks, against the same product in float64.
TEST_F(TileLinearTest, EqualsTheProductInFloat64) {
  at::manual_seed(3);
  for (const int64_t in : {1, 15, 16, 17, 31, 32, 33, 100, 576, 768, 769, 1600, 12300})
    for (const int64_t out : {1, 15, 16, 17, 32, 33, 70})
      for (const int64_t rows : {15, 16, 17, 32, 33, 48, 49, 256, 257, 300, 530}) {
        const at::Tensor x = at::randn({rows, in}), weight = at::randn({out, in});
        const at::Tensor size = at::matmul(x.abs(), weight.abs().t()).to(at::kDouble);
        const at::Tensor y = TileLinear(x, weight);
        EXPECT_LT(((y.to(at::kDouble) - InFloat64(x, weight)).abs() / size).max().item<double>(), 4e-7) << rows << "x" << in << "x" << out;
      }
}

TEST_F(TileLinearTest, ItsGradientEqualsTheTransposedProductInFloat64) {
  at::manual_seed(9);
  for (const int64_t in : {1, 15, 16, 17, 33, 100, 576})
    for (const int64_t out : {1, 31, 32, 33, 70, 769, 1600})
      for (const int64_t rows : {15, 16, 31, 33, 257}) {
        const at::Tensor gradient = at::randn({rows, out}), weight = at::randn({out, in});
        const at::Tensor exact = at::matmul(gradient.to(at::kDouble), weight.to(at::kDouble)),
                         size = at::matmul(gradient.abs(), weight.abs());
        const at::Tensor found = TileLinearGradient(gradient, weight);
        EXPECT_LT(((found.to(at::kDouble) - exact).abs() / size).max().item<double>(), 4e-7) << rows << "x" << out << "x" << in;
        // The same sums as of the matrix turned round.
        EXPECT_TRUE(at::equal(found, TileLinear(gradient, weight.t().contiguous())));
      }
}

// The claim of its header: more exact than the library's product in float32.
TEST_F(TileLinearTest, IsMoreExactThanTheLibrary) {
  at::manual_seed(4);
  for (const auto& [rows, in] : {std::pair<int64_t, int64_t>{20, 576}, {256, 576}, {20, 1536}, {256, 1536}}) {
    const at::Tensor x = at::randn({rows, in}), weight = at::randn({320, in}), exact = InFloat64(x, weight);
    const double ours = RelativeError(TileLinear(x, weight), exact), library = RelativeError(at::linear(x, weight), exact);
    EXPECT_LT(ours, 1.5e-7);
    EXPECT_LT(ours, library);
  }
}

// Sizes that differ by many powers of two, within a row and between rows: no part of a number is lost.
TEST_F(TileLinearTest, HoldsForLargeAndSmallNumbers) {
  at::manual_seed(5);
  for (const double scale : {1e-35, 1e-26, 1e-22, 1e-8, 1.0, 1e15, 1e25, 1e30}) {
    const at::Tensor x = at::randn({40, 200}) * at::pow(2.0, at::randint(-12, 13, {40, 200})) * scale, weight = at::randn({30, 200});
    const at::Tensor size = at::matmul(x.abs().to(at::kDouble), weight.abs().to(at::kDouble).t());
    EXPECT_LT(((TileLinear(x, weight).to(at::kDouble) - InFloat64(x, weight)).abs() / size).max().item<double>(), 4e-7) << scale;
  }
}

// One number times one is exact to the last bit but one: so all three parts take part.
TEST_F(TileLinearTest, OneProductIsRoundedOnce) {
  at::manual_seed(6);
  const at::Tensor x = at::randn({64, 1}), weight = at::randn({64, 1}), exact = InFloat64(x, weight);
  EXPECT_LT(((TileLinear(x, weight).to(at::kDouble) - exact) / exact).abs().max().item<double>(), std::ldexp(1.5, -23));
}

TEST_F(TileLinearTest, ARowDependsNeitherOnTheOthersNorOnTheThreads) {
  at::manual_seed(7);
  const at::Tensor x = at::randn({600, 900}), weight = at::randn({100, 900}), all = TileLinear(x, weight);
  for (const int64_t rows : {33, 64, 271})
    EXPECT_TRUE(at::equal(TileLinear(x.narrow(0, 600 - rows, rows), weight), all.narrow(0, 600 - rows, rows))) << rows;
  const at::Tensor few = TileLinear(x.narrow(0, 568, 32), weight);
  for (const int64_t rows : {15, 16, 17, 31})
    EXPECT_TRUE(at::equal(TileLinear(x.narrow(0, 600 - rows, rows), weight), few.narrow(0, 32 - rows, rows))) << rows;
  const at::Tensor wide = at::randn({32, 8192}), of_wide = at::randn({20, 8192});
  EXPECT_TRUE(at::equal(TileLinear(wide.narrow(0, 16, 16), of_wide), TileLinear(wide, of_wide).narrow(0, 16, 16)));
  const int threads = at::get_num_threads();
  for (const int other : {1, 3}) {
    at::set_num_threads(other);
    EXPECT_TRUE(at::equal(TileLinear(x, weight), all)) << other;
    EXPECT_TRUE(at::equal(TileLinearGradient(x, weight.t().contiguous()), all)) << other;
  }
  at::set_num_threads(threads);
}

// What is too large or too small for the unit (infinity and no number too) is computed as everywhere, forwards and back, and its neighbours
// do not notice.
TEST_F(TileLinearTest, RowsOutsideItsRangeAreTheOrdinaryProduct) {
  at::manual_seed(8);
  for (const bool is_way_back : {false, true}) {
    const at::Tensor x = at::randn({50, 60}), weight = at::rand({60, 60}) + 0.5;
    const auto product = [&](const at::Tensor& rows) { return is_way_back ? TileLinearGradient(rows, weight) : TileLinear(rows, weight); };
    at::Tensor outside = x.clone();
    outside[3][7] = std::numeric_limits<float>::infinity();
    outside[20][0] = -std::numeric_limits<float>::quiet_NaN();
    outside[48].mul_(std::ldexp(1.0, -110));
    outside[49][59] = -3.4e38f;
    const at::Tensor y = product(outside), clean = product(x);
    EXPECT_TRUE(y[3].isposinf().all().item<bool>());
    EXPECT_TRUE(y[20].isnan().all().item<bool>());
    for (int64_t row = 0; row < 50; ++row) {
      const at::Tensor line = outside.narrow(0, row, 1),
                       alone = is_way_back ? ShortLinearGradient(line, weight) : ShortLinear(line, weight);
      const bool is_outside = row == 3 || row == 20 || row >= 48;
      EXPECT_TRUE(at::equal(y[row], is_outside ? alone[0] : clean[row]) || row == 20) << row;
    }
    // All rows, more than are done at once.
    const at::Tensor tiny = x * std::ldexp(1.0, -110);
    EXPECT_TRUE(at::equal(product(tiny), is_way_back ? ShortLinearGradient(tiny, weight) : ShortLinear(tiny, weight)));
  }
}

TEST_F(TileLinearTest, LeavesOthersAlone) {
  const at::Tensor weight = at::randn({8, 4});
  EXPECT_FALSE(IsTiled(at::randn({2, 4}), weight));
  EXPECT_FALSE(IsTiled(at::randn({100, 4}).to(at::kBFloat16), weight.to(at::kBFloat16)));
  EXPECT_FALSE(IsTiled(at::randn({100, 8}), weight.t()));
  EXPECT_FALSE(IsTiled(at::randn({100, 4}), at::randn({8, 4}).set_requires_grad(true)));
  EXPECT_FALSE(IsTiled(at::randn({100, 4}).to(at::kMeta), weight.to(at::kMeta)));
}

}  // namespace
}  // namespace fluoroscope::model
