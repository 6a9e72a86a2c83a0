// Which cells of a grid are run once more, to check the values of the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "api/sweep.h"

namespace fluoroscope::sweep {

// The places of the `count` largest values by size, the largest first; equal ones in their order; NaN is none. Fewer when there are not so
// many.
std::vector<uint32_t> LargestPlaces(const std::vector<double>& values, size_t count);

// Of each metric the `top` cells with the largest changes by size, and `random` ones of the rest. Ascending. `changes` [cells, metrics]:
// from the base run, the mean over pairs; a cell that is NaN in every metric is never chosen.
std::vector<uint32_t> ChooseCells(const std::vector<double>& changes, size_t metrics, const api::CellChoice& choice);

}  // namespace fluoroscope::sweep
