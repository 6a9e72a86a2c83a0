#include "intervention/subspace.h"

#include <gtest/gtest.h>

namespace fluoroscope::intervention {
namespace {

double MaxAbs(const at::Tensor& x) { return x.numel() == 0 ? 0 : x.abs().max().item<double>(); }

TEST(SubspaceTest, OrthonormalAndTheSameSpan) {
  at::manual_seed(1);
  for (const int64_t n : {1, 3, 20}) {
    const at::Tensor given = at::randn({n, 20}) * 100;
    const at::Tensor basis = OrthonormalBasis(given);
    ASSERT_EQ(basis.size(0), n);
    EXPECT_LT(MaxAbs(at::matmul(basis, basis.t()) - at::eye(n)), 1e-6);
    EXPECT_LT(MaxAbs(at::matmul(at::matmul(given, basis.t()), basis) - given), 1e-3);
  }
}

TEST(SubspaceTest, DependentDirectionsCountOnce) {
  const at::Tensor one = at::arange(1, 7, at::kFloat);
  const at::Tensor given = at::stack({at::zeros({6}), one, one * -3, one + at::eye(6)[2] * 1e-3, at::zeros({6})});
  const at::Tensor basis = OrthonormalBasis(given);
  ASSERT_EQ(basis.sizes(), at::IntArrayRef({2, 6}));
  EXPECT_LT(MaxAbs(at::matmul(basis, basis.t()) - at::eye(2)), 1e-6);
  EXPECT_EQ(OrthonormalBasis(at::zeros({2, 6})).size(0), 0);
}

// Directions that are nearly parallel are where one pass of Gram-Schmidt fails.
TEST(SubspaceTest, NearlyParallelDirectionsStayOrthogonal) {
  at::manual_seed(2);
  const at::Tensor given = at::ones({4, 30}) + at::randn({4, 30}) * 1e-4;
  const at::Tensor basis = OrthonormalBasis(given);
  EXPECT_LT(MaxAbs(at::matmul(basis, basis.t()) - at::eye(basis.size(0))), 1e-6);
}

at::Tensor Projector(const at::Tensor& basis) { return at::matmul(basis.t(), basis).to(at::kDouble); }

// Wide, square and tall readers, one of them of lower rank than its sizes say.
TEST(SubspaceTest, RowSpaceAndNullSpaceParts) {
  at::manual_seed(3);
  const at::Tensor low_rank = at::matmul(at::randn({9, 2}), at::randn({2, 12}));
  for (const at::Tensor& reader : {at::randn({5, 12}), at::randn({12, 12}), at::randn({30, 12}), low_rank}) {
    const at::Tensor basis = OrthonormalBasis(at::randn({3, 12}));
    const at::Tensor wide = reader.to(at::kDouble);
    const at::Tensor on_rows = at::matmul(at::linalg_pinv(wide, /*rcond=*/1e-5), wide);  // the slow way
    for (const bool null_space : {false, true}) {
      const at::Tensor part = null_space ? NullSpacePart(basis, reader) : RowSpacePart(basis, reader);
      EXPECT_LT(MaxAbs(at::matmul(part, part.t()) - at::eye(part.size(0))), 1e-5);
      const at::Tensor projected = at::matmul(basis.to(at::kDouble), null_space ? at::eye(12, at::kDouble) - on_rows : on_rows);
      // The same span: every projected direction lies in it, and it is no larger.
      EXPECT_EQ(part.size(0), at::linalg_matrix_rank(projected, 1e-5).item<int64_t>());
      EXPECT_LT(MaxAbs(at::matmul(projected, Projector(part)) - projected), 1e-5);
      // What the null space holds, the reader does not see.
      EXPECT_TRUE(!null_space || MaxAbs(at::matmul(reader, part.t())) < 1e-4);
    }
  }
  EXPECT_EQ(NullSpacePart(at::eye(12).narrow(0, 0, 2), at::randn({30, 12})).size(0), 0) << "a tall matrix reads everything";
}

}  // namespace
}  // namespace fluoroscope::intervention
