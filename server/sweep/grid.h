// The cells of a sweep: which places its axes have, and what one cell changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "api/sweep.h"
#include "model/sites.h"

namespace fluoroscope::sweep {

// What one cell changes, in every pair alike; `group` is the place on the position axis.
struct CellChange {
  model::Site site = model::Site::kResidPre;
  std::vector<int64_t> layers;  // ascending; of both places, where there are two
  std::vector<int64_t> heads;   // empty: all, or the site has none
  // Where there are two places: heads by layer (entries of `layers`), ascending, instead of `heads`.
  std::vector<std::vector<int64_t>> heads_by_layer;
  std::vector<int64_t> units;  // of the last axis, ascending; empty: all
  size_t group = 0;
  size_t unit_place = 0;  // on the unit axis

  // Those that are changed in the layer at this place of `layers`; empty: all, or the site has none.
  const std::vector<int64_t>& HeadsIn(size_t place) const { return heads_by_layer.empty() ? heads : heads_by_layer[place]; }
};

// An axis that is not swept over is not varied: all its layers, heads or positions are changed together.
struct Grid {
  std::vector<api::SweepAxis> axes;  // in the order of the result's axes
  std::vector<model::Site> sites;    // one, unless they are an axis
  std::vector<int64_t> layers;
  std::vector<int64_t> heads;  // empty when the site has none or all are changed together
  // Of the second place; ascending. Empty where cells change one place.
  std::vector<int64_t> second_layers, second_heads;
  // Places on the unit axis; without that axis none (all units), or one with those that are changed together.
  std::vector<std::vector<int64_t>> units;
  size_t groups = 1;
  int64_t window = 1;         // on the layer axis: so many adjacent layers from the cell's own on, as far as there are
  int64_t window_before = 0;  // of them in front of the cell's own
  int64_t model_layers = 0;

  size_t SizeOf(api::SweepAxis axis) const;
  size_t cells() const;
  // Cells are numbered row by row, the last axis fastest.
  CellChange At(size_t cell) const;
  // Another cell that is the same change, because it has the same two places in the other order.
  std::optional<size_t> Twin(size_t cell) const;

 private:
  std::vector<int64_t> Window(int64_t layer) const;
};

}  // namespace fluoroscope::sweep
