#include "attribution/node_scores.h"

#include <algorithm>
#include <numeric>

#include "model/packed_rows.h"

namespace fluoroscope::attribution {

void NodeScores::Add(model::Site site, int64_t layer, const at::Tensor& difference, const at::Tensor& gradient) {
  const model::SiteSpec& spec = model::SpecOf(site);
  at::Tensor product = (difference * gradient).nan_to_num(0.0, 0.0, 0.0);
  product = product.movedim(model::PositionAxis(spec), 0);
  if (model::HeadAxis(spec) < 0) product = product.unsqueeze(1);
  std::vector<at::Tensor> places;
  for (const std::vector<int64_t>& units : grid_->units)
    places.push_back(product.index_select(2, model::IndexTensor(units, product.device())).sum(2, false, at::kDouble));
  const at::Tensor sum = places.empty() ? product.sum(2, true, at::kDouble) : at::stack(places, 2);
  AddSum(site, layer, sum);
}

void NodeScores::AddEffects(model::Site site, int64_t layer, const at::Tensor& effects) {
  AddSum(site, layer, effects.to(at::kDouble).unsqueeze(2));
}

void NodeScores::AddSum(model::Site site, int64_t layer, const at::Tensor& sum) {
  at::Tensor& total = sums_[{site, layer}];
  total = (total.defined() ? total + sum.to(at::kCPU) : sum.to(at::kCPU)).contiguous();
}

std::vector<double> NodeScores::Cells(const std::vector<std::vector<int64_t>>& groups, double factor) const {
  std::vector<double> scores(grid_->cells());
  for (size_t cell = 0; cell < scores.size(); ++cell) {
    const sweep::CellChange change = grid_->At(cell);
    double sum = 0;
    for (int64_t layer : change.layers) {
      const at::Tensor& at = sums_.at({change.site, layer});
      const double* const data = at.const_data_ptr<double>();
      std::vector<int64_t> heads = change.heads;
      if (heads.empty()) {
        heads.resize(static_cast<size_t>(at.size(1)));
        std::iota(heads.begin(), heads.end(), 0);
      }
      for (int64_t position : groups[change.group])
        for (int64_t head : heads) sum += data[(position * at.size(1) + head) * at.size(2) + static_cast<int64_t>(change.unit_place)];
    }
    scores[cell] = sum * factor;
  }
  return scores;
}

at::Tensor Difference(model::Site site, const at::Tensor& source, const at::Tensor& base, const std::vector<int64_t>& of) {
  const int axis = model::PositionAxis(model::SpecOf(site));
  std::vector<int64_t> from = of;
  for (int64_t& position : from) position = std::max<int64_t>(position, 0);
  at::Tensor difference = source.index_select(axis, model::IndexTensor(from, source.device())) - base;
  std::vector<int64_t> none;
  for (size_t p = 0; p < of.size(); ++p)
    if (of[p] < 0) none.push_back(static_cast<int64_t>(p));
  if (!none.empty()) difference.index_fill_(axis, model::IndexTensor(none, difference.device()), 0);
  return difference;
}

}  // namespace fluoroscope::attribution
