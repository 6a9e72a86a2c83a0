#include "attribution/check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

namespace fluoroscope::attribution {
namespace {

// The first `count` places when sorted by size, the largest first; equal ones in their order.
std::vector<uint32_t> Largest(const std::vector<double>& values, size_t count) {
  std::vector<uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  order.resize(std::min(count, order.size()));
  return order;
}

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

std::vector<uint32_t> CellsToVerify(const std::vector<double>& scores, size_t metrics, const api::AttributionVerify& verify) {
  const size_t cells = scores.size() / metrics;
  std::set<uint32_t> chosen;
  for (size_t m = 0; m < metrics; ++m) {
    std::vector<double> of_metric(cells);
    for (size_t cell = 0; cell < cells; ++cell) of_metric[cell] = scores[cell * metrics + m];
    for (uint32_t cell : Largest(of_metric, verify.top)) chosen.insert(cell);
  }
  std::vector<uint32_t> rest;
  for (uint32_t cell = 0; cell < cells; ++cell)
    if (!chosen.contains(cell)) rest.push_back(cell);
  std::mt19937_64 random(verify.seed);
  for (size_t i = 0; i < std::min<size_t>(verify.random, rest.size()); ++i) {
    std::swap(rest[i], rest[i + random() % (rest.size() - i)]);
    chosen.insert(rest[i]);
  }
  return {chosen.begin(), chosen.end()};
}

std::optional<double> Spearman(const std::vector<double>& a, const std::vector<double>& b) {
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
  const std::vector<uint32_t> guessed = Largest(estimates, top), true_ones = Largest(exact, top);
  const std::set<uint32_t> really(true_ones.begin(), true_ones.end());
  const auto hits = std::count_if(guessed.begin(), guessed.end(), [&](uint32_t cell) { return really.contains(cell); });
  return {Spearman(estimates, compared), guessed.empty() ? 0 : static_cast<double>(hits) / static_cast<double>(guessed.size()),
          static_cast<uint32_t>(guessed.size())};
}

}  // namespace fluoroscope::attribution
