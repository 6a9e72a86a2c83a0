#include "sweep/grid.h"

#include <algorithm>

namespace fluoroscope::sweep {

using api::SweepAxis;

size_t Grid::SizeOf(SweepAxis axis) const {
  switch (axis) {
    case SweepAxis::kSite:
      return sites.size();
    case SweepAxis::kLayer:
      return layers.size();
    case SweepAxis::kPosition:
      return groups;
    case SweepAxis::kHead:
      return heads.size();
    case SweepAxis::kUnit:
      return units.size();
    case SweepAxis::kReceiver:
    case SweepAxis::kSender:
      break;  // no axes of a sweep
  }
  return 0;
}

size_t Grid::cells() const {
  size_t cells = 1;
  for (SweepAxis axis : axes) cells *= SizeOf(axis);
  return cells;
}

CellChange Grid::At(size_t cell) const {
  CellChange change;
  change.site = sites.front();
  change.layers = layers;
  change.heads = heads;
  if (!units.empty()) change.units = units.front();
  for (size_t i = axes.size(); i-- > 0;) {
    const size_t size = SizeOf(axes[i]), place = cell % size;
    cell /= size;
    switch (axes[i]) {
      case SweepAxis::kSite:
        change.site = sites[place];
        break;
      case SweepAxis::kLayer:
        change.layers.clear();
        for (int64_t layer = layers[place] - window_before; layer < layers[place] - window_before + window; ++layer)
          if (layer >= 0 && layer < model_layers) change.layers.push_back(layer);
        break;
      case SweepAxis::kPosition:
        change.group = place;
        break;
      case SweepAxis::kHead:
        change.heads = {heads[place]};
        break;
      case SweepAxis::kUnit:
        change.units = units[place];
        change.unit_place = place;
        break;
      case SweepAxis::kReceiver:
      case SweepAxis::kSender:
        break;
    }
  }
  return change;
}

}  // namespace fluoroscope::sweep
