#include "sweep/choose_cells.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <set>

namespace fluoroscope::sweep {
namespace {

// Whether a cell has no change in any metric.
bool HasNone(const std::vector<double>& changes, size_t metrics, size_t cell) {
  const auto begin = changes.begin() + static_cast<std::ptrdiff_t>(cell * metrics);
  return std::all_of(begin, begin + static_cast<std::ptrdiff_t>(metrics), [](double change) { return std::isnan(change); });
}

}  // namespace

std::vector<uint32_t> LargestPlaces(const std::vector<double>& values, size_t count) {
  std::vector<uint32_t> order;
  for (uint32_t place = 0; place < values.size(); ++place)
    if (!std::isnan(values[place])) order.push_back(place);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  order.resize(std::min(count, order.size()));
  return order;
}

std::vector<uint32_t> ChooseCells(const std::vector<double>& changes, size_t metrics, const api::CellChoice& choice) {
  const size_t cells = changes.size() / metrics;
  std::set<uint32_t> chosen;
  for (size_t m = 0; m < metrics; ++m) {
    std::vector<double> of_metric(cells);
    for (size_t cell = 0; cell < cells; ++cell) of_metric[cell] = changes[cell * metrics + m];
    for (uint32_t cell : LargestPlaces(of_metric, choice.top)) chosen.insert(cell);
  }
  std::vector<uint32_t> rest;
  for (uint32_t cell = 0; cell < cells; ++cell)
    if (!chosen.contains(cell) && !HasNone(changes, metrics, cell)) rest.push_back(cell);
  std::mt19937_64 random(choice.seed);
  for (size_t i = 0; i < std::min<size_t>(choice.random, rest.size()); ++i) {
    std::swap(rest[i], rest[i + random() % (rest.size() - i)]);
    chosen.insert(rest[i]);
  }
  return {chosen.begin(), chosen.end()};
}

}  // namespace fluoroscope::sweep
