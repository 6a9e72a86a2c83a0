#include "intervention/subspace.h"

#include <cmath>
#include <vector>

namespace fluoroscope::intervention {
namespace {

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// The vectors' projections on the row space, in float64.
at::Tensor OnRowSpace(const at::Tensor& vectors, const at::Tensor& reader) {
  const at::Tensor r = reader.to(at::kDouble);
  // The eigenvectors of the smaller of r r^T and r^T r; those with a number of their own (against rounding of the weights) are kept.
  const bool wide = r.size(0) < r.size(1);
  const auto [values, eigenvectors] = at::linalg_eigh(wide ? at::matmul(r, r.t()) : at::matmul(r.t(), r));
  constexpr double kRank = 1e-6;  // of the largest singular value
  const at::Tensor kept = at::nonzero(values > values.max() * (kRank * kRank)).squeeze(1);
  const at::Tensor vectors_kept = eigenvectors.index_select(1, kept);
  if (!wide) return at::matmul(at::matmul(vectors, vectors_kept), vectors_kept.t());
  const at::Tensor inside = at::matmul(at::matmul(vectors, r.t()), vectors_kept) / values.index_select(0, kept);
  return at::matmul(at::matmul(inside, vectors_kept.t()), r);
}

// An orthonormal basis of the span of projections of an orthonormal basis. Singular values are cosines here: what is below this is
// rounding.
at::Tensor BasisOfProjections(const at::Tensor& projections) {
  constexpr double kCosine = 1e-5;
  const auto [left, cosines, right] = at::linalg_svd(projections, /*full_matrices=*/false);
  return right.index_select(0, at::nonzero(cosines > kCosine).squeeze(1)).to(at::kFloat);
}

}  // namespace

at::Tensor RowSpacePart(const at::Tensor& basis, const at::Tensor& reader) {
  return BasisOfProjections(OnRowSpace(basis.to(at::kDouble), reader));
}

at::Tensor NullSpacePart(const at::Tensor& basis, const at::Tensor& reader) {
  const at::Tensor vectors = basis.to(at::kDouble);
  return BasisOfProjections(vectors - OnRowSpace(vectors, reader));
}

at::Tensor OrthonormalBasis(const at::Tensor& directions) {
  // What is left of a float32 direction after its part in the others' span is taken off; less is rounding.
  constexpr double kIndependent = 1e-6;
  const at::Tensor given = directions.contiguous();
  const size_t units = static_cast<size_t>(given.size(1));
  std::vector<std::vector<double>> basis;
  for (int64_t row = 0; row < given.size(0); ++row) {
    const float* begin = given.const_data_ptr<float>() + static_cast<size_t>(row) * units;
    std::vector<double> direction(begin, begin + units);
    const double length = std::sqrt(Dot(direction, direction));
    if (length == 0) continue;
    // Gram-Schmidt, twice, because once loses orthogonality where directions are nearly parallel.
    for (int again = 0; again < 2; ++again)
      for (const std::vector<double>& other : basis) {
        const double part = Dot(direction, other);
        for (size_t i = 0; i < units; ++i) direction[i] -= part * other[i];
      }
    const double left = std::sqrt(Dot(direction, direction));
    if (left <= kIndependent * length) continue;
    for (double& x : direction) x /= left;
    basis.push_back(std::move(direction));
  }
  at::Tensor out = at::empty({static_cast<int64_t>(basis.size()), static_cast<int64_t>(units)}, at::kFloat);
  float* to = out.mutable_data_ptr<float>();
  for (const std::vector<double>& direction : basis)
    for (const double x : direction) *to++ = static_cast<float>(x);
  return out;
}

}  // namespace fluoroscope::intervention
