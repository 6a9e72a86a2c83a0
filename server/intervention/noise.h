// Counter-based noise: a number is a function of its place, not of a generator's state.
#pragma once

#include <array>
#include <cstdint>

namespace fluoroscope::intervention {

// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"): four random words of a counter and a key.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, uint64_t key);

// Four standard normal numbers, by the Box-Muller transform.
std::array<float, 4> FourNormals(std::array<uint32_t, 4> counter, uint64_t key);

}  // namespace fluoroscope::intervention
