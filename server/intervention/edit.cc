#include "intervention/edit.h"

#include <limits>

#include "intervention/copy.h"
#include "intervention/kinds.h"

namespace fluoroscope::intervention {
namespace {

constexpr double kMasked = -std::numeric_limits<double>::infinity();

// All kinds but copies: the region is read, changed in float32 and written back. Masked scores take no part.
template <typename Kind>
void ApplyKind(const Kind& kind, const EditContext& context, const Region& region, at::Tensor& value) {
  at::Tensor own = Read(value, region).to(at::kFloat);
  const std::vector<int64_t> shape = own.sizes().vec();
  at::Tensor hidden;
  if (region.masked) {
    hidden = own == kMasked;
    own = own.masked_fill(hidden, 0);
  }
  at::Tensor changed = Changed(kind, KindContext{context, region, value}, own).expand(shape);
  if (hidden.defined()) changed = changed.masked_fill(hidden, kMasked);
  Write(value, region, changed.to(value.scalar_type()));
}

void ApplyKind(const Copy& copy, const EditContext& context, const Region& region, at::Tensor& value) {
  CopyRegion(copy, context, region, value);
}

}  // namespace

at::Tensor KindContext::Alive(const at::Tensor& made) const {
  // Broadcasting aligns the last axes, so the position axis of `made` may be missing or of size 1.
  const int64_t axis = region.position_axis - (whole.dim() - made.dim());
  if (axis < 0 || made.size(axis) == 1 || made.size(axis) == static_cast<int64_t>(edit.alive.size())) return made;
  return made.index_select(axis, at::tensor(edit.alive, at::kLong).to(made.device()));
}

at::Tensor KindContext::Source(Kept kept) const {
  const at::Tensor source = Alive(edit.kept[kept]).to(at::kFloat);
  return region.masked ? source.masked_fill(source == kMasked, 0) : source;
}

void Apply(const Edit& edit, const EditContext& context, const Region& region, at::Tensor& value) {
  std::visit([&](const auto& kind) { ApplyKind(kind, context, region, value); }, edit);
}

}  // namespace fluoroscope::intervention
