// Bytes for people: in messages that name a limit, and in the log.
#pragma once

#include <cstdint>
#include <string>

namespace fluoroscope {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;

// "0 B", "1023 B", "1.0 KiB", "1.5 GiB", "16.0 EiB". One decimal, cut off rather than rounded: what fits never reads as more than it is.
std::string FormatBytes(uint64_t bytes);

}  // namespace fluoroscope
