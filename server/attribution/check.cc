#include "attribution/check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "sweep/choose_cells.h"

namespace fluoroscope::attribution {
namespace {

std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return ranks;
}

}  // namespace

std::optional<double> Spearman(const std::vector<double>& a, const std::vector<double>& b) {
  for (const std::vector<double>* values : {&a, &b})
    if (std::any_of(values->begin(), values->end(), [](double value) { return std::isnan(value); })) return std::nullopt;
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
    xy += (x[i] - mean) * (y[i] - mean);
  }
  if (xx == 0 || yy == 0) return std::nullopt;
  return xy / std::sqrt(xx * yy);
}

api::AttributionCheck::OfMetric Compare(const std::vector<double>& estimates, const std::vector<double>& exact, uint32_t top,
                                        bool by_size) {
  std::vector<double> compared = exact;
  if (by_size)
    for (double& value : compared) value = std::abs(value);
  const std::vector<uint32_t> guessed = sweep::LargestPlaces(estimates, top), true_ones = sweep::LargestPlaces(exact, top);
  const std::set<uint32_t> really(true_ones.begin(), true_ones.end());
  const auto hits = std::count_if(guessed.begin(), guessed.end(), [&](uint32_t cell) { return really.contains(cell); });
  return {Spearman(estimates, compared), guessed.empty() ? 0 : static_cast<double>(hits) / static_cast<double>(guessed.size()),
          static_cast<uint32_t>(guessed.size())};
}

}  // namespace fluoroscope::attribution
