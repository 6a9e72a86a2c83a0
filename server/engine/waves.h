// In which order rows must run so that every row's sources have run before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/status/statusor.h"

namespace fluoroscope::engine {

// `sources[r]`: the rows that row r copies from. Wave 0 has the rows without sources, wave n + 1 those whose last source is in wave n.
// INVALID_ARGUMENT when rows copy from each other in a circle.
absl::StatusOr<std::vector<std::vector<size_t>>> Waves(const std::vector<std::set<uint32_t>>& sources);

}  // namespace fluoroscope::engine
