// Directions that somebody gives become an orthonormal basis of their span.
#pragma once

#include <ATen/ATen.h>

namespace fluoroscope::intervention {

// `directions`: f32 [n, units] on the CPU. f32 [rank, units]; rank 0 when all are zero. Plain loops: it runs on the prepare thread, which
// starts no parallel work.
at::Tensor OrthonormalBasis(const at::Tensor& directions);

// An orthonormal basis of what is left of a subspace when each of its vectors is projected on the row space of a matrix (the inputs that
// the matrix reads), or on its null space (those that it maps to zero). `basis`: f32 [rank, units], orthonormal; `reader` [outputs, units].
// f32 [up to rank, units]. On the executor's thread: in time of the smaller side of `reader` to the third.
at::Tensor RowSpacePart(const at::Tensor& basis, const at::Tensor& reader);
at::Tensor NullSpacePart(const at::Tensor& basis, const at::Tensor& reader);

}  // namespace fluoroscope::intervention
