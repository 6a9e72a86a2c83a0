// Scores of all nodes of a grid, summed up from products of values and gradients.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <utility>
#include <vector>

#include "sweep/planner.h"

namespace fluoroscope::attribution {

// One pair's scores for one metric.
class NodeScores {
 public:
  explicit NodeScores(const sweep::Grid& grid) : grid_(&grid) {}

  // Adds `difference` * `gradient`, both in the site's shape, at a hook point. Entries where both runs are masked count as 0.
  void Add(model::Site site, int64_t layer, const at::Tensor& difference, const at::Tensor& gradient);

  // Adds what each position and head does altogether, [positions, heads], at a hook point; not for grids with a unit axis.
  void AddEffects(model::Site site, int64_t layer, const at::Tensor& effects);

  // By cell of the grid, times `factor`. `groups` are the pair's places on the position axis.
  std::vector<double> Cells(const std::vector<std::vector<int64_t>>& groups, double factor) const;

 private:
  void AddSum(model::Site site, int64_t layer, const at::Tensor& sum);  // [positions, heads, places on the unit axis]

  const sweep::Grid* grid_;                                     // outlives it
  std::map<std::pair<model::Site, int64_t>, at::Tensor> sums_;  // f64 [positions, heads, places on the unit axis] on the CPU
};

// source[of[p]] - base[p] by position; 0 where of[p] is -1. Both in the shape of `site`.
at::Tensor Difference(model::Site site, const at::Tensor& source, const at::Tensor& base, const std::vector<int64_t>& of);

}  // namespace fluoroscope::attribution
