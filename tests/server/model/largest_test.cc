#include "model/largest.h"

#include <gtest/gtest.h>

#include <limits>

#include "model/line_kernels.h"

namespace fluoroscope::model {
namespace {

// A stable sort of the whole line: slow, obvious.
std::pair<at::Tensor, at::Tensor> BySorting(const at::Tensor& x, int64_t k) {
  const auto [values, indices] = at::sort(x, /*stable=*/true, -1, /*descending=*/true);
  return {values.narrow(1, 0, k), indices.narrow(1, 0, k)};
}

TEST(LargestTest, EqualsAStableSort) {
  at::manual_seed(1);
  for (const int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 127, 500, 49152})
    for (const int64_t k : {1, 2, 5, 10, 64, 65, 500}) {
      if (k > n) continue;
      const at::Tensor random = at::randn({3, n});
      // With many equal numbers, and in both orders.
      for (const at::Tensor& x : {random, at::round(random), std::get<0>(at::sort(random)), std::get<0>(at::sort(random, -1, true))}) {
        const auto [values, indices] = Largest(x, k);
        const auto [expected, places] = BySorting(x, k);
        EXPECT_TRUE(at::equal(values, expected)) << k << " of " << n;
        EXPECT_TRUE(at::equal(at::gather(x, 1, indices), expected)) << k << " of " << n;
        const bool keeps_order = k <= 64 && HasLineKernels(x);
        EXPECT_TRUE(!keeps_order || at::equal(indices, places)) << k << " of " << n;
      }
    }
}

TEST(LargestTest, LinesMayLieApart) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({4, 100}), part = x.narrow(1, 10, 50);
  EXPECT_TRUE(at::equal(Largest(part, 7).second, Largest(part.contiguous(), 7).second));
  EXPECT_EQ(Largest(x.narrow(0, 0, 0), 3).first.sizes(), at::IntArrayRef({0, 3}));
}

TEST(LargestTest, InfinitiesAndNoNumbersAreWhatTheyAreInLibTorch) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  at::Tensor x = at::randn({3, 200});
  x[0].fill_(-kInfinity);
  x[1][150] = kInfinity;
  x[2][3] = -kInfinity;
  for (int with_nan = 0; with_nan < 3; ++with_nan) {
    if (with_nan > 0) x[2][with_nan == 1 ? 190 : 1] = std::numeric_limits<float>::quiet_NaN();  // behind the first k, and among them
    const auto [values, indices] = Largest(x, 5);
    EXPECT_TRUE(at::allclose(values, std::get<0>(at::topk(x, 5)), 0, 0, /*equal_nan=*/true));
    EXPECT_TRUE(at::allclose(at::gather(x, 1, indices), values, 0, 0, /*equal_nan=*/true));
    EXPECT_TRUE(!HasLineKernels(x) || at::equal(indices[0], at::arange(5))) << "a line of equal numbers beside one with a NaN";
  }
}

}  // namespace
}  // namespace fluoroscope::model
