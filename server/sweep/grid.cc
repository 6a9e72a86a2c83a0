#include "sweep/grid.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fluoroscope::sweep {

using api::SweepAxis;

namespace {

std::vector<int64_t> Union(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<int64_t> both;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both;
}

bool Has(const std::vector<int64_t>& ascending, int64_t one) { return std::binary_search(ascending.begin(), ascending.end(), one); }

// Of two places: in each layer the heads of those places that it belongs to. `change` has the first place.
void AddPlace(const std::vector<int64_t>& layers, const std::vector<int64_t>& heads, CellChange& change) {
  const std::vector<int64_t> first = std::move(change.layers);
  change.layers = Union(first, layers);
  for (int64_t layer : change.layers) {
    const bool of_first = Has(first, layer), of_second = Has(layers, layer);
    const bool all = (of_first && change.heads.empty()) || (of_second && heads.empty());
    change.heads_by_layer.push_back(all                     ? std::vector<int64_t>{}
                                    : of_first && of_second ? Union(change.heads, heads)
                                    : of_first              ? change.heads
                                                            : heads);
  }
}

}  // namespace

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
    case SweepAxis::kSecondLayer:
      return second_layers.size();
    case SweepAxis::kSecondHead:
      return second_heads.size();
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
  bool two = false;
  std::vector<int64_t> other_layers = second_layers, other_heads = second_heads;
  for (size_t i = axes.size(); i-- > 0;) {
    const size_t size = SizeOf(axes[i]), place = cell % size;
    cell /= size;
    switch (axes[i]) {
      case SweepAxis::kSite:
        change.site = sites[place];
        break;
      case SweepAxis::kLayer:
        change.layers = Window(layers[place]);
        break;
      case SweepAxis::kSecondLayer:
        two = true;
        other_layers = Window(second_layers[place]);
        break;
      case SweepAxis::kSecondHead:
        two = true;
        other_heads = {second_heads[place]};
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
  if (two) AddPlace(other_layers, other_heads, change);
  return change;
}

std::vector<int64_t> Grid::Window(int64_t layer) const {
  std::vector<int64_t> out;
  for (int64_t at = layer - window_before; at < layer - window_before + window; ++at)
    if (at >= 0 && at < model_layers) out.push_back(at);
  return out;
}

std::optional<size_t> Grid::Twin(size_t cell) const {
  if (second_layers.empty() && second_heads.empty()) return std::nullopt;
  // Places along layers, heads, and the second ones; and how far apart such places are in a cell's number.
  enum { kLayers, kHeads, kSecondLayers, kSecondHeads, kAxes };
  const std::vector<int64_t>* const lists[kAxes] = {&layers, &heads, &second_layers, &second_heads};
  const SweepAxis names[kAxes] = {SweepAxis::kLayer, SweepAxis::kHead, SweepAxis::kSecondLayer, SweepAxis::kSecondHead};
  size_t places[kAxes] = {}, strides[kAxes] = {}, stride = 1, twin = cell;
  for (size_t i = axes.size(); i-- > 0;) {
    const size_t size = SizeOf(axes[i]);
    for (size_t list = 0; list < kAxes; ++list)
      if (axes[i] == names[list]) {
        places[list] = cell / stride % size;
        strides[list] = stride;
      }
    stride *= size;
  }
  if (strides[kSecondLayers] == 0 && strides[kSecondHeads] == 0) return std::nullopt;
  for (const auto& [first, second] : {std::pair(kLayers, kSecondLayers), std::pair(kHeads, kSecondHeads)}) {
    if (strides[first] == 0) {  // not varied: the same in both places, or there is no twin
      if (*lists[first] != *lists[second]) return std::nullopt;
      continue;
    }
    for (const auto& [from, to] : {std::pair(first, second), std::pair(second, first)}) {
      const int64_t wanted = (*lists[from])[places[from]];
      const auto found = std::lower_bound(lists[to]->begin(), lists[to]->end(), wanted);
      if (found == lists[to]->end() || *found != wanted) return std::nullopt;
      twin = twin - places[to] * strides[to] + static_cast<size_t>(found - lists[to]->begin()) * strides[to];
    }
  }
  if (twin == cell) return std::nullopt;
  return twin;
}

}  // namespace fluoroscope::sweep
