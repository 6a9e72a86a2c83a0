#include "intervention/copy.h"

namespace fluoroscope::intervention {

namespace {

// Lines of a kept value, which is already only the heads and units that were kept.
Region Lines(const Region& region, std::vector<int64_t> lines) {
  Region part;
  part.position_axis = region.position_axis;
  part.lines = std::move(lines);
  return part;
}

}  // namespace

void CopyRegion(const Copy& copy, const EditContext& context, const Region& region, at::Tensor& value) {
  const at::Tensor& source = context.kept[copy.source];
  if (copy.lines.empty()) {
    const bool all_alive = static_cast<int64_t>(context.alive.size()) == source.size(region.position_axis);
    Write(value, region, all_alive ? source : Read(source, Lines(region, context.alive)));
    return;
  }
  Region from = Lines(region, {});
  from.head_axis = region.head_axis;
  from.heads = copy.heads;
  from.units = copy.units;
  for (int64_t index : context.alive) from.lines.push_back(copy.lines[static_cast<size_t>(index)]);
  Write(value, region, Read(source, from));
}

}  // namespace fluoroscope::intervention
