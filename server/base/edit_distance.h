// How far two words are apart, to guess what a misspelt name was meant to be.
#pragma once

#include <cstddef>
#include <string_view>

namespace fluoroscope {

// The fewest bytes to insert, delete, change, or swap with their neighbour that make one text the other, where no part is edited twice
// (optimal string alignment). Time and memory are those of a table of both lengths.
size_t EditDistance(std::string_view a, std::string_view b);

}  // namespace fluoroscope
