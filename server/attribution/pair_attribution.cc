#include "attribution/pair_attribution.h"

#include <algorithm>
#include <cmath>

#include "attribution/attention_effects.h"

namespace fluoroscope::attribution {

using api::AttributionMethod;
using model::Site;

PairAttribution::PairAttribution(const AttributionPlan& plan, size_t pair)
    : PairPasses(*plan.sweep.model, plan.sweep.pairs[pair], pair, WayOf(plan)),
      plan_(plan),
      sites_(plan.sweep.grid.sites.begin(), plan.sweep.grid.sites.end()),
      scores_(plan.sweep.pairs[pair].base_metrics.size(), NodeScores(plan.sweep.grid)),
      sizes_(scores_.size(), std::vector<double>(plan.sweep.grid.cells())) {}

bool PairAttribution::StepScores(size_t metric) {
  if (plan_.is_inside()) {
    const auto [site, layer] = places()[place()];
    AddScores(metric, site, layer);
    return false;
  }
  if (!drops_layers()) {
    AddScores(metric);
    return false;
  }
  if (!is_without_) {
    is_without_ = true;
    without_ = model().arch.layers;
  } else {
    if (has_blocks_) {
      has_blocks_ = gradients().StepBackward();
      return true;
    }
    scores_[metric] = NodeScores(plan_.sweep.grid);
    AddScores(metric);
    const std::vector<double> scores = scores_[metric].Cells(pair().groups, 1);
    for (size_t cell = 0; cell < scores.size(); ++cell) sizes_[metric][cell] += std::abs(scores[cell]);
  }
  is_without_ = without_ > 0;
  if (is_without_) has_blocks_ = gradients().StartWithout(--without_);
  return is_without_;
}

void PairAttribution::AddScores(size_t metric) {
  for (Site site : sites_)
    for (int64_t layer = 0; layer < model().arch.layers; ++layer) AddScores(metric, site, layer);
}

void PairAttribution::AddScores(size_t metric, Site site, int64_t layer) {
  if (plan_.fixes_attention() && (IsQuery(site) || IsKey(site))) {
    AddAttentionEffect(metric, site, layer);
    return;
  }
  scores_[metric].Add(site, layer, Change(site, layer), gradients().Gradient(site, layer));
}

at::Tensor PairAttribution::Change(Site site, int64_t layer) const {
  if (plan_.method == AttributionMethod::kGradientTimesInput) return base().Value(site, layer);
  return plan_.sweep.cell == api::SweepCell::kZero ? -base().Value(site, layer) : PairPasses::Change(site, layer);
}

void PairAttribution::AddAttentionEffect(size_t metric, Site site, int64_t layer) {
  const model::Architecture& arch = model().arch;
  const bool rotary = arch.positions == model::PositionScheme::kRotary;
  const auto rotated = [&](const at::Tensor& x, const run::GradientRun& run) { return rotary ? model::Rotate(x, run.angles()) : x; };
  Attention attention;
  attention.q = rotated(base().Value(Site::kQ, layer), base());
  attention.k = rotated(base().Value(Site::kK, layer), base());
  attention.gradient = gradients().Gradient(Site::kPattern, layer);
  attention.scale = arch.score_scale;
  const Site before = IsQuery(site) ? Site::kQ : Site::kK;
  const bool is_rotated = site == Site::kRotQ || site == Site::kRotK;
  // A copied query turns by the angle of the place it comes to, unless what is copied is turned already.
  const at::Tensor own = is_rotated ? rotated(base().Value(before, layer), base()) : base().Value(before, layer);
  at::Tensor changed;
  if (plan_.sweep.cell == api::SweepCell::kZero) {
    changed = at::zeros_like(own);
  } else {
    const at::Tensor theirs = is_rotated ? rotated(source().Value(before, layer), source()) : source().Value(before, layer);
    changed = own + Difference(before, theirs, own, pair().source_of);
  }
  if (!is_rotated) changed = rotated(changed, base());
  scores_[metric].AddEffects(site, layer, IsQuery(site) ? QueryEffects(attention, changed) : KeyEffects(attention, changed));
}

std::vector<double> PairAttribution::Scores() const {
  const size_t cells = plan_.sweep.grid.cells(), metrics = scores_.size();
  const double others = static_cast<double>(std::max<int64_t>(model().arch.layers - 1, 1));
  std::vector<double> out(cells * metrics);
  for (size_t m = 0; m < metrics; ++m) {
    const std::vector<double> scores = drops_layers() ? sizes_[m] : scores_[m].Cells(pair().groups, 1.0 / static_cast<double>(passes()));
    for (size_t cell = 0; cell < cells; ++cell) out[cell * metrics + m] = drops_layers() ? scores[cell] / others : scores[cell];
  }
  return out;
}

}  // namespace fluoroscope::attribution
