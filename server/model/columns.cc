#include "model/columns.h"

#include <ATen/ops/as_strided_native.h>
#include <c10/core/InferenceMode.h>

namespace fluoroscope::model {
namespace {

at::Tensor View(const at::Tensor& x, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t start) {
  return at::native::as_strided_tensorimpl(x, sizes, strides, x.storage_offset() + start);
}

}  // namespace

at::Tensor Columns(const at::Tensor& x, int64_t start, int64_t size) {
  if (!c10::InferenceMode::is_enabled()) return x.narrow(1, start, size);
  return View(x, {x.size(0), size}, x.strides(), start * x.stride(1));
}

at::Tensor HeadColumns(const at::Tensor& x, int64_t start, int64_t heads, int64_t d_head) {
  if (!c10::InferenceMode::is_enabled()) return x.narrow(1, start, heads * d_head).unflatten(1, {heads, d_head});
  return View(x, {x.size(0), heads, d_head}, {x.stride(0), d_head * x.stride(1), x.stride(1)}, start * x.stride(1));
}

at::Tensor JoinHeads(const at::Tensor& z) {
  const bool side_by_side = z.stride(1) == z.size(2) * z.stride(2);
  if (!c10::InferenceMode::is_enabled() || !side_by_side) return z.flatten(1);
  return View(z, {z.size(0), z.size(1) * z.size(2)}, {z.stride(0), z.stride(2)}, 0);
}

}  // namespace fluoroscope::model
