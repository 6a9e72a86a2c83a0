#include "engine/sweep_labels.h"

#include <string>

namespace fluoroscope::engine {
namespace {

using api::SweepAxis;

// "9: John", or "9" where the pairs' tokens differ.
std::string Token(int64_t position, const std::vector<api::RowInfo>& bases) {
  const size_t p = static_cast<size_t>(position);
  const api::RowInfo& first = bases.front();
  for (const api::RowInfo& row : bases)
    if (p >= row.token_ids.size() || row.token_ids[p] != first.token_ids[p]) return std::to_string(position);
  return std::to_string(position) + (first.tokens.empty() ? "" : ":" + first.tokens[p]);
}

std::string Place(const api::SweepRequest& request, const sweep::SweepPlan& plan, size_t place, const std::vector<api::RowInfo>& bases) {
  if (!request.groups.empty()) return request.groups[place].name;
  const int64_t position = plan.pairs.front().groups[place].front();
  for (const sweep::Pair& pair : plan.pairs)
    if (pair.groups[place].front() != position) return std::to_string(position);
  return Token(position, bases);
}

std::string Units(const sweep::SweepPlan& plan, const std::vector<int64_t>& units, const std::vector<api::RowInfo>& bases) {
  if (units.size() > 1) return std::to_string(units.front()) + "-" + std::to_string(units.back());
  const bool are_keys = model::SpecOf(plan.grid.sites.front()).axes.back() == model::Axis::kKey;
  return are_keys ? Token(units.front(), bases) : std::to_string(units.front());
}

std::string Label(SweepAxis axis, const api::SweepRequest& request, const sweep::SweepPlan& plan, size_t place,
                  const std::vector<api::RowInfo>& bases) {
  switch (axis) {
    case SweepAxis::kSite:
      return std::string(model::SpecOf(plan.grid.sites[place]).name);
    case SweepAxis::kLayer:
      return std::to_string(plan.grid.layers[place]);
    case SweepAxis::kHead:
      return std::to_string(plan.grid.heads[place]);
    case SweepAxis::kSecondLayer:
      return std::to_string(plan.grid.second_layers[place]);
    case SweepAxis::kSecondHead:
      return std::to_string(plan.grid.second_heads[place]);
    case SweepAxis::kUnit:
      return Units(plan, plan.grid.units[place], bases);
    case SweepAxis::kPosition:
      return Place(request, plan, place, bases);
    case SweepAxis::kReceiver:
    case SweepAxis::kSender:
      break;
  }
  return "";
}

}  // namespace

std::vector<api::SweepAxisInfo> LabelsOf(const api::SweepRequest& request, const sweep::SweepPlan& plan,
                                         const std::vector<api::RowInfo>& bases) {
  std::vector<api::SweepAxisInfo> axes;
  for (SweepAxis axis : plan.grid.axes) {
    api::SweepAxisInfo& info = axes.emplace_back(api::SweepAxisInfo{axis, {}});
    for (size_t place = 0; place < plan.grid.SizeOf(axis); ++place) info.labels.push_back(Label(axis, request, plan, place, bases));
  }
  return axes;
}

}  // namespace fluoroscope::engine
