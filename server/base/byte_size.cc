#include "base/byte_size.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace fluoroscope {

std::string FormatBytes(uint64_t bytes) {
  constexpr std::array kUnits = {" KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  if (bytes < kKiB) return absl::StrCat(bytes, " B");
  size_t unit = 0;
  uint64_t size = kKiB;
  while (unit + 1 < kUnits.size() && bytes / size >= 1024) {
    size *= 1024;
    ++unit;
  }
  // The tenth is taken from a size scaled down first, so that even the largest number does not overflow.
  const uint64_t tenths = size == kKiB ? (bytes % size) * 10 / size : (bytes % size) / 1024 * 10 / (size / 1024);
  return absl::StrCat(bytes / size, ".", tenths, kUnits[unit]);
}

}  // namespace fluoroscope
