#include "run/gradient_hooks.h"

#include <numeric>

#include "intervention/edit.h"
#include "intervention/region.h"

namespace fluoroscope::run {

intervention::Region RegionOf(const Place& place) {
  const model::SiteSpec& spec = model::SpecOf(place.site);
  intervention::Region region;
  region.position_axis = model::PositionAxis(spec);
  region.lines = place.positions;
  region.head_axis = model::HeadAxis(spec);
  region.heads = place.heads;
  region.units = place.units;
  region.masked = place.site == model::Site::kAttnScores;
  return region;
}

GradientHooks::GradientHooks(const RowPlan& row, const std::vector<at::Tensor>& kept) : kept_(kept) {
  for (const EditPlan& edit : row.edits) edits_[{edit.place.site, edit.place.layer}].push_back(&edit);
}

void GradientHooks::Record(std::set<HookPlace> places) {
  recorded_ = std::move(places);
  seen_.clear();
}

bool GradientHooks::Wants(model::Site site, int64_t layer) const {
  return edits_.contains({site, layer}) || recorded_.contains({site, layer});
}

at::Tensor GradientHooks::Pass(model::Site site, int64_t layer, at::Tensor value) {
  if (const auto found = edits_.find({site, layer}); found != edits_.end()) {
    value = value.clone(at::MemoryFormat::Contiguous);
    for (const EditPlan* edit : found->second) {
      std::vector<int64_t> alive(edit->place.positions.size());  // the pass has all positions to its end
      std::iota(alive.begin(), alive.end(), 0);
      intervention::Apply(edit->edit, {kept_, alive}, RegionOf(edit->place), value);
    }
  }
  if (!recorded_.contains({site, layer})) return value;
  // An alias, so that what goes on beside it (the residual beside the MLP that reads it) has a gradient of its own, and the heads' results
  // are what the pass goes on with. Embeddings come from weights, which have no gradient.
  value = value.requires_grad() ? value.alias() : value.detach().requires_grad_();
  seen_[{site, layer}] = value;
  return value;
}

}  // namespace fluoroscope::run
