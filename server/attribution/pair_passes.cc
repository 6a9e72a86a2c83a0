#include "attribution/pair_passes.h"

#include <algorithm>

#include "attribution/differentiable_metric.h"
#include "attribution/node_scores.h"

namespace fluoroscope::attribution {

using model::Site;

PairPasses::PairPasses(const model::Model& model, const sweep::Pair& pair, size_t index, Way way)
    : model_(model), pair_(pair), way_(std::move(way)), reference_{static_cast<uint32_t>(index), {}, {}} {}

at::Tensor PairPasses::Change(Site site, int64_t layer) const {
  return Difference(site, source().Value(site, layer), base().Value(site, layer), pair_.source_of);
}

bool PairPasses::Step() {
  switch (stage_) {
    case Stage::kBase:
      StepBase();
      return true;
    case Stage::kSource:
      StepSource();
      return true;
    case Stage::kBetween:
      StepBetween();
      return true;
    case Stage::kBackward:
      if (!gradients().StepBackward()) stage_ = Stage::kScores;
      return true;
    case Stage::kScores:
      return StepScores(metric_) || Next();
    case Stage::kDone:
      return false;
  }
  return false;
}

int64_t CommonTokens(const sweep::Pair& pair, const std::set<Site>& sites) {
  for (const Site site : sites)
    if (model::SpecOf(site).axes.back() == model::Axis::kKey) return 0;
  const auto& base = pair.base_ids;
  const auto differ = std::mismatch(base.begin(), base.end(), pair.source_ids.begin(), pair.source_ids.end()).first;
  // The last token is always the source's own.
  return std::min<int64_t>(differ - base.begin(), static_cast<int64_t>(pair.source_ids.size()) - 1);
}

void PairPasses::StepBase() {
  if (base_ == nullptr) {
    std::set<Site> sites = Sites(!integrated());
    if (way_.inside) sites.insert(Site::kResidPre);  // where runs begin
    base_ = std::make_unique<run::GradientRun>(
        model_, pair_.base_ids, std::move(sites),
        run::GradientRun::Options{.with_gradients = !integrated(), .keeps_keys = true, .trunk = nullptr, .common = 0});
  }
  if (base_->StepForward()) return;
  tokens_ += pair_.base_ids.size();
  for (const run::MetricPlan& metric : pair_.base_metrics)
    reference_.base.push_back(Differentiate(model_, metric, base_->normalized()).value);
  stage_ = Stage::kSource;
}

void PairPasses::StepSource() {
  if (source_ == nullptr) {
    const int64_t common = CommonTokens(pair_, Sites(/*with_gradients=*/false));
    source_ = std::make_unique<run::GradientRun>(
        model_, pair_.source_ids, Sites(/*with_gradients=*/false),
        run::GradientRun::Options{.with_gradients = false, .keeps_keys = false, .trunk = base_.get(), .common = common});
    tokens_ += pair_.source_ids.size() - static_cast<size_t>(common);
  }
  if (source_->StepForward()) return;
  for (const run::MetricPlan& metric : pair_.source_metrics)
    reference_.source.push_back(Differentiate(model_, metric, source_->normalized()).value);
  if (!integrated())
    StartBackward();
  else
    stage_ = way_.inside && way_.places.empty() ? Stage::kDone : Stage::kBetween;
}

void PairPasses::StepBetween() {
  if (between_ == nullptr) BeginBetween();
  if (between_->StepForward()) return;
  tokens_ += pair_.base_ids.size();
  StartBackward();
}

void PairPasses::BeginBetween() {
  between_ = std::make_unique<run::GradientRun>(
      model_, pair_.base_ids, Sites(/*with_gradients=*/true),
      run::GradientRun::Options{.with_gradients = true, .keeps_keys = false, .trunk = nullptr, .common = 0});
  const double share = (static_cast<double>(step_) + 0.5) / static_cast<double>(way_.steps);
  if (!way_.inside) {
    between_->BeginWith(base_->resid_pre() + (source_->resid_pre() - base_->resid_pre()) * share);
    return;
  }
  const auto [site, layer] = way_.places[place_];
  between_->BeginWith(base_->Value(Site::kResidPre, layer), layer);
  // Masked scores are -inf in both runs, and stay so.
  between_->Replace(site, layer, base_->Value(site, layer) + (Change(site, layer) * share).nan_to_num_(0.0, 0.0, 0.0));
}

void PairPasses::StartBackward() {
  const run::MetricPlan& metric = pair_.base_metrics[metric_];
  gradients().StartBackward(Differentiate(model_, metric, gradients().normalized()).gradient,
                            /*last=*/metric_ + 1 == pair_.base_metrics.size() && !KeepsGraph());
  stage_ = Stage::kBackward;
}

bool PairPasses::Next() {
  if (++metric_ < pair_.base_metrics.size()) {
    StartBackward();
    return true;
  }
  metric_ = 0;
  between_.reset();
  stage_ = Stage::kBetween;
  if (++step_ < passes()) return true;
  step_ = 0;
  return ++place_ < way_.places.size();
}

}  // namespace fluoroscope::attribution
