// Estimates beside exact values: how well the two agree.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "api/attribution.h"

namespace fluoroscope::attribution {

// Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank (as scipy.stats.spearmanr). None with a NaN, with fewer than
// two values, or where one side is the same everywhere.
std::optional<double> Spearman(const std::vector<double>& a, const std::vector<double>& b);

// Of one metric, over the verified cells. `by_size`: estimates have no sign. proto/fluoroscope/v1/patching.proto says what precision means.
api::AttributionCheck::OfMetric Compare(const std::vector<double>& estimates, const std::vector<double>& exact, uint32_t top, bool by_size);

}  // namespace fluoroscope::attribution
