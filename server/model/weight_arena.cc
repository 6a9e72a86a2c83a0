#include "model/weight_arena.h"

namespace fluoroscope::model {
namespace {

constexpr int64_t kLine = 64;

}  // namespace

WeightArena::WeightArena(int64_t bytes, at::Device device)
    : block_(at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device))) {}

at::Tensor WeightArena::Take(at::IntArrayRef shape, at::ScalarType dtype) {
  const at::Tensor form = at::empty(shape, at::TensorOptions().dtype(dtype).device(at::kMeta));
  const auto bytes = static_cast<int64_t>(form.nbytes());
  const int64_t begin = taken_;
  taken_ += (bytes + kLine - 1) / kLine * kLine;
  if (!block_.defined()) return form;
  return block_.narrow(0, begin, bytes).view(dtype).view(shape);
}

}  // namespace fluoroscope::model
