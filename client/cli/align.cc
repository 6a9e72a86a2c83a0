#include "client/cli/align.h"

#include <algorithm>
#include <cstddef>

namespace fluoroscope::cli {
namespace {

using Ids = std::vector<int64_t>;

// Equal tokens at both places, so many.
struct Block {
  size_t source = 0, base = 0, size = 0;
};

struct Part {
  size_t source, source_end, base, base_end;
};

Block Longest(const Ids& source, const Ids& base, const Part& part) {
  Block best{part.source, part.base, 0};
  // How many equal tokens end at this token of the source and at each one of the base; shifted by one.
  std::vector<size_t> before(part.base_end - part.base + 1), here(before.size());
  for (size_t s = part.source; s < part.source_end; ++s) {
    for (size_t b = part.base; b < part.base_end; ++b) {
      const size_t place = b - part.base;
      here[place + 1] = source[s] == base[b] ? before[place] + 1 : 0;
      if (here[place + 1] > best.size) best = {s + 1 - here[place + 1], b + 1 - here[place + 1], here[place + 1]};
    }
    before.swap(here);
  }
  return best;
}

}  // namespace

std::vector<int32_t> AlignTokens(const std::vector<int64_t>& source, const std::vector<int64_t>& base) {
  std::vector<Block> blocks;
  std::vector<Part> parts = {{0, source.size(), 0, base.size()}};
  while (!parts.empty()) {
    const Part part = parts.back();
    parts.pop_back();
    const Block found = Longest(source, base, part);
    if (found.size == 0) continue;
    blocks.push_back(found);
    parts.push_back({part.source, found.source, part.base, found.base});
    parts.push_back({found.source + found.size, part.source_end, found.base + found.size, part.base_end});
  }
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.base < b.base; });
  blocks.push_back({source.size(), base.size(), 0});
  std::vector<int32_t> map(base.size(), -1);
  size_t source_at = 0, base_at = 0;  // behind the block before
  for (const Block& block : blocks) {
    const bool as_long = block.source - source_at == block.base - base_at;
    const size_t from = as_long ? base_at : block.base, offset = block.source - block.base;
    for (size_t b = from; b < block.base + block.size; ++b) map[b] = static_cast<int32_t>(b + offset);
    source_at = block.source + block.size;
    base_at = block.base + block.size;
  }
  return map;
}

}  // namespace fluoroscope::cli
