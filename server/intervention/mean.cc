#include <limits>

#include "intervention/kinds.h"

namespace fluoroscope::intervention {
namespace {

at::Tensor MeanOf(const Mean::Reference& reference, const std::vector<at::Tensor>& kept, const Region& region) {
  // Summed in float64: a reference may have thousands of positions.
  const int64_t axis = region.position_axis;
  at::Tensor sum, count;
  const auto add = [](at::Tensor& to, const at::Tensor& part) { to = to.defined() ? to + part : part; };
  for (const Kept source : reference.sources) {
    const at::Tensor& value = kept[source];
    if (!region.masked) {
      add(sum, value.sum(axis, /*keepdim=*/true, at::kDouble));
      add(count, at::scalar_tensor(value.size(axis), sum.options()));
      continue;
    }
    // Of scores only the queries that see the key count. A key that none of them sees stays out of sight.
    const at::Tensor seen = value.isfinite();
    add(sum, value.masked_fill(seen.logical_not(), 0).sum(axis, /*keepdim=*/true, at::kDouble));
    add(count, seen.sum(axis, /*keepdim=*/true, at::kDouble));
  }
  at::Tensor mean = sum / count;
  if (region.masked) mean = mean.masked_fill(count == 0, -std::numeric_limits<double>::infinity());
  return mean.to(at::kFloat);
}

}  // namespace

at::Tensor Changed(const Mean& mean, const KindContext& context, const at::Tensor&) {
  const Mean::Reference& reference = *mean.reference;
  if (!reference.value.defined()) reference.value = MeanOf(reference, context.edit.kept, context.region);
  if (mean.heads.empty() && mean.units.empty()) return reference.value;
  Region part;
  part.position_axis = context.region.position_axis;
  part.lines = {0};
  part.head_axis = context.region.head_axis;
  part.heads = mean.heads;
  part.units = mean.units;
  return Read(reference.value, part);
}

}  // namespace fluoroscope::intervention
