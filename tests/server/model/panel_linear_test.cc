#include "model/panel_linear.h"

#include <gtest/gtest.h>

#include <limits>

#include "model/short_linear.h"

namespace fluoroscope::model {
namespace {

// Whole and broken tiles, panels and vectors; several parts of the inputs; strides that collide in the cache.
constexpr int64_t kLines[] = {17, 28, 29, 100, 448, 512};
constexpr int64_t kIn[] = {1, 15, 16, 37, 576, 767, 768, 769, 1024, 1528, 1535, 1536, 1537, 2303};
constexpr int64_t kOut[] = {1, 16, 31, 32, 33, 97};

TEST(PanelLinearTest, EqualsTheProductInFloat64) {
  at::manual_seed(1);
  for (const int64_t lines : kLines) {
    for (const int64_t in : kIn) {
      for (const int64_t out : kOut) {
        const at::Tensor x = at::randn({lines, in}), weight = at::randn({out, in});
        if (!IsForPanels(x, weight)) GTEST_SKIP() << "no AVX-512";
        const at::Tensor exact = at::linear(x.to(at::kDouble), weight.to(at::kDouble));
        // What rounding may do grows with the sum of the products' sizes.
        const at::Tensor size = at::linear(x.abs().to(at::kDouble), weight.abs().to(at::kDouble));
        EXPECT_LT(((PanelLinear(x, weight).to(at::kDouble) - exact).abs() / size).max().item<double>(), 2e-6)
            << lines << " lines, " << in << " -> " << out;
      }
    }
  }
}

TEST(PanelLinearTest, ALineDoesNotDependOnTheOthers) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({500, 800}), weight = at::randn({70, 800});
  if (!IsForPanels(x, weight)) GTEST_SKIP() << "no AVX-512";
  const at::Tensor all = PanelLinear(x, weight);
  for (const int64_t lines : {17, 28, 41, 64, 449})
    for (const int64_t first : {int64_t{0}, int64_t{5}, 500 - lines})
      EXPECT_TRUE(at::equal(PanelLinear(x.narrow(0, first, lines), weight), all.narrow(0, first, lines))) << lines << " from " << first;
}

TEST(PanelLinearTest, TakesLinesThatLieApart) {
  at::manual_seed(3);
  const at::Tensor wide = at::randn({40, 2048}), weight = at::randn({50, 100});
  const at::Tensor x = wide.narrow(1, 7, 100);
  if (!IsForPanels(x, weight)) GTEST_SKIP() << "no AVX-512";
  EXPECT_TRUE(at::equal(PanelLinear(x, weight), PanelLinear(x.contiguous(), weight)));
  const at::Tensor turned = at::randn({100, 40}).t();
  EXPECT_TRUE(at::equal(PanelLinear(turned, weight), PanelLinear(turned.contiguous(), weight)));
}

TEST(PanelLinearTest, IsForManyLinesWithoutGradients) {
  const at::Tensor weight = at::randn({8, 16});
  EXPECT_FALSE(IsForPanels(at::randn({kMaxShortLines, 16}), weight));
  EXPECT_FALSE(IsForPanels(at::randn({100, 16}).requires_grad_(), weight));
  EXPECT_FALSE(IsForPanels(at::randn({100, 16}, at::kHalf), weight.to(at::kHalf)));
  const at::Tensor nan = at::full({20, 16}, std::numeric_limits<float>::quiet_NaN());
  if (!IsForPanels(nan, weight)) GTEST_SKIP() << "no AVX-512";
  EXPECT_TRUE(PanelLinear(nan, weight).isnan().all().item<bool>());
  EXPECT_FALSE(IsForPanels(at::randn({513, 16}), weight));
}

}  // namespace
}  // namespace fluoroscope::model
