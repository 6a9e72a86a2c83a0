// Which tokens of two prompts belong together: the position map of a sweep over prompts of unequal length.
#pragma once

#include <cstdint>
#include <vector>

namespace fluoroscope::cli {

// For each token of `base` the position in `source` that it corresponds to, -1 for none: equal stretches correspond, and so do the
// stretches between them where both have the same length. The Python package's align(): stretches are found as Python's
// difflib.SequenceMatcher does, the longest first (of equally long ones the first in `source`, then in `base`), then to both sides of it.
std::vector<int32_t> AlignTokens(const std::vector<int64_t>& source, const std::vector<int64_t>& base);

}  // namespace fluoroscope::cli
