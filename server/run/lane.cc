#include "run/lane.h"

#include <algorithm>
#include <utility>

namespace fluoroscope::run {

void AddRows(const Lane& lane, const std::vector<size_t>& rows, LaneRows& to) {
  for (const size_t row : rows) to.push_back({&lane, &lane.plan.rows[row]});
}

void SortByLength(LaneRows& rows) {
  const auto size = [](const LaneRow& row) { return std::pair(row.plan->length(), row.plan->first()); };
  std::stable_sort(rows.begin(), rows.end(), [&](const LaneRow& a, const LaneRow& b) { return size(a) < size(b); });
}

}  // namespace fluoroscope::run
