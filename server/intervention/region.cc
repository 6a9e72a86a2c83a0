#include "intervention/region.h"

#include <span>
#include <utility>

namespace fluoroscope::intervention {
namespace {

at::Tensor Index(const std::vector<int64_t>& values, const at::Tensor& like) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(like.device());
}

bool Consecutive(const std::vector<int64_t>& lines) {
  for (size_t i = 1; i < lines.size(); ++i)
    if (lines[i] != lines[i - 1] + 1) return false;
  return !lines.empty();
}

// Some indices of an axis.
using Choice = std::pair<int64_t, const std::vector<int64_t>*>;

// The part that all choices meet in is replaced: of an outer choice the lines are read, changed by the inner ones, and written back.
void WriteAt(at::Tensor& value, std::span<const Choice> choices, const at::Tensor& entries) {
  const auto& [axis, chosen] = choices.front();
  const at::Tensor index = Index(*chosen, value);
  if (choices.size() == 1) {
    value.index_copy_(axis, index, entries);
    return;
  }
  at::Tensor part = value.index_select(axis, index);
  WriteAt(part, choices.subspan(1), entries);
  value.index_copy_(axis, index, part);
}

}  // namespace

at::Tensor Read(const at::Tensor& value, const Region& region) {
  at::Tensor out = Consecutive(region.lines)
                       ? value.narrow(region.position_axis, region.lines.front(), static_cast<int64_t>(region.lines.size()))
                       : value.index_select(region.position_axis, Index(region.lines, value));
  if (region.head_axis >= 0 && !region.heads.empty()) out = out.index_select(region.head_axis, Index(region.heads, value));
  if (!region.units.empty()) out = out.index_select(-1, Index(region.units, value));
  return out;
}

void Write(at::Tensor& value, const Region& region, const at::Tensor& entries) {
  std::vector<Choice> choices = {{region.position_axis, &region.lines}};
  if (region.head_axis >= 0 && !region.heads.empty()) choices.emplace_back(region.head_axis, &region.heads);
  if (!region.units.empty()) choices.emplace_back(value.dim() - 1, &region.units);
  WriteAt(value, choices, entries);
}

}  // namespace fluoroscope::intervention
