#include "attribution/pair_attribution.h"

#include <algorithm>
#include <cmath>

#include "attribution/attention_effects.h"
#include "attribution/differentiable_metric.h"

namespace fluoroscope::attribution {

using api::AttributionMethod;
using model::Site;

PairAttribution::PairAttribution(const AttributionPlan& plan, size_t pair)
    : plan_(plan),
      pair_(pair),
      sites_(plan.sweep.grid.sites.begin(), plan.sweep.grid.sites.end()),
      reference_{static_cast<uint32_t>(pair), {}, {}},
      scores_(plan.sweep.pairs[pair].base_metrics.size(), NodeScores(plan.sweep.grid)),
      sizes_(scores_.size(), std::vector<double>(plan.sweep.grid.cells())) {}

std::unique_ptr<run::GradientRun> PairAttribution::NewRun(const std::vector<int64_t>& ids, bool with_gradients) const {
  std::set<Site> sites = sites_;
  const bool attention =
      plan_.fixes_attention() && std::any_of(sites_.begin(), sites_.end(), [](Site s) { return IsQuery(s) || IsKey(s); });
  if (attention) sites.insert({Site::kQ, Site::kK});
  if (attention && with_gradients) sites.insert(Site::kPattern);
  return std::make_unique<run::GradientRun>(*plan_.sweep.model, ids, std::move(sites), with_gradients);
}

bool PairAttribution::Step() {
  switch (stage_) {
    case Stage::kSource:
      StepSource();
      return true;
    case Stage::kBase:
      StepBase();
      return true;
    case Stage::kBackward:
      return StepBackward();
  }
  return false;
}

void PairAttribution::StepSource() {
  if (source_ == nullptr) source_ = NewRun(pair().source_ids, /*with_gradients=*/false);
  if (source_->StepForward()) return;
  tokens_ += pair().source_ids.size();
  for (const run::MetricPlan& metric : pair().source_metrics)
    reference_.source.push_back(Differentiate(*plan_.sweep.model, metric, source_->normalized()).value);
  stage_ = Stage::kBase;
}

// The base run: with gradients where they are taken there, else a plain one, followed by the runs on the way to the source.
void PairAttribution::StepBase() {
  if (base_ == nullptr) base_ = NewRun(pair().base_ids, /*with_gradients=*/!plan_.is_integrated());
  if (reference_.base.empty()) {
    if (base_->StepForward()) return;
    tokens_ += pair().base_ids.size();
    for (const run::MetricPlan& metric : pair().base_metrics)
      reference_.base.push_back(Differentiate(*plan_.sweep.model, metric, base_->normalized()).value);
    if (plan_.is_integrated()) return;
  }
  if (plan_.is_integrated()) {
    if (between_ == nullptr) {
      between_ = NewRun(pair().base_ids, /*with_gradients=*/true);
      const double share = (static_cast<double>(step_) + 0.5) / static_cast<double>(steps());
      between_->BeginWith(base_->resid_pre() + (source_->resid_pre() - base_->resid_pre()) * share);
    }
    if (between_->StepForward()) return;
    tokens_ += pair().base_ids.size();
  }
  metric_ = 0;
  StartBackward();
  stage_ = Stage::kBackward;
}

void PairAttribution::StartBackward() {
  const run::MetricPlan& metric = pair().base_metrics[metric_];
  without_ = plan_.sweep.model->arch.layers;
  gradients().StartBackward(Differentiate(*plan_.sweep.model, metric, gradients().normalized()).gradient,
                            /*last=*/metric_ + 1 == pair().base_metrics.size() && !drops_layers());
}

bool PairAttribution::StepBackward() {
  if (gradients().StepBackward()) return true;
  // Passes without the first block, and others that end where they begin, have nothing to step.
  while (true) {
    const int64_t layers = plan_.sweep.model->arch.layers;
    if (!drops_layers()) {
      AddScores();
      break;
    }
    if (without_ < layers) {
      scores_[metric_] = NodeScores(plan_.sweep.grid);
      AddScores();
      const std::vector<double> scores = scores_[metric_].Cells(pair().groups, 1);
      for (size_t cell = 0; cell < scores.size(); ++cell) sizes_[metric_][cell] += std::abs(scores[cell]);
    }
    if (without_ == 0) break;
    if (gradients().StartWithout(--without_)) return true;
  }
  return Next();
}

bool PairAttribution::Next() {
  if (++metric_ < pair().base_metrics.size()) {
    StartBackward();
    return true;
  }
  between_.reset();
  stage_ = Stage::kBase;
  return ++step_ < steps();
}

void PairAttribution::AddScores() {
  for (Site site : sites_)
    for (int64_t layer = 0; layer < plan_.sweep.model->arch.layers; ++layer) {
      if (plan_.fixes_attention() && (IsQuery(site) || IsKey(site))) {
        AddAttentionEffect(site, layer);
        continue;
      }
      const at::Tensor own = base_->Value(site, layer);
      const at::Tensor change = plan_.method == AttributionMethod::kGradientTimesInput ? own
                                : plan_.sweep.cell == api::SweepCell::kZero
                                    ? -own
                                    : Difference(site, source_->Value(site, layer), own, pair().source_of);
      scores_[metric_].Add(site, layer, change, gradients().Gradient(site, layer));
    }
}

void PairAttribution::AddAttentionEffect(Site site, int64_t layer) {
  const model::Architecture& arch = plan_.sweep.model->arch;
  const bool rotary = arch.positions == model::PositionScheme::kRotary;
  const auto rotated = [&](const at::Tensor& x, const run::GradientRun& run) { return rotary ? model::Rotate(x, run.angles()) : x; };
  Attention attention;
  attention.q = rotated(base_->Value(Site::kQ, layer), *base_);
  attention.k = rotated(base_->Value(Site::kK, layer), *base_);
  attention.gradient = gradients().Gradient(Site::kPattern, layer);
  attention.scale = arch.score_scale;
  const Site before = IsQuery(site) ? Site::kQ : Site::kK;
  const bool is_rotated = site == Site::kRotQ || site == Site::kRotK;
  // A copied query turns by the angle of the place it comes to, unless what is copied is turned already.
  const at::Tensor own = is_rotated ? rotated(base_->Value(before, layer), *base_) : base_->Value(before, layer);
  at::Tensor changed;
  if (plan_.sweep.cell == api::SweepCell::kZero) {
    changed = at::zeros_like(own);
  } else {
    const at::Tensor source = is_rotated ? rotated(source_->Value(before, layer), *source_) : source_->Value(before, layer);
    changed = own + Difference(before, source, own, pair().source_of);
  }
  if (!is_rotated) changed = rotated(changed, *base_);
  scores_[metric_].AddEffects(site, layer, IsQuery(site) ? QueryEffects(attention, changed) : KeyEffects(attention, changed));
}

std::vector<double> PairAttribution::Scores() const {
  const size_t cells = plan_.sweep.grid.cells(), metrics = scores_.size();
  const double others = static_cast<double>(std::max<int64_t>(plan_.sweep.model->arch.layers - 1, 1));
  std::vector<double> out(cells * metrics);
  for (size_t m = 0; m < metrics; ++m) {
    const std::vector<double> scores = drops_layers() ? sizes_[m] : scores_[m].Cells(pair().groups, 1.0 / static_cast<double>(steps()));
    for (size_t cell = 0; cell < cells; ++cell) out[cell * metrics + m] = drops_layers() ? scores[cell] / others : scores[cell];
  }
  return out;
}

}  // namespace fluoroscope::attribution
