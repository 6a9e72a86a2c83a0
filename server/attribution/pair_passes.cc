#include "attribution/pair_passes.h"

#include <algorithm>

#include "attribution/differentiable_metric.h"

namespace fluoroscope::attribution {

PairPasses::PairPasses(const model::Model& model, const sweep::Pair& pair, size_t index, int64_t steps)
    : model_(model), pair_(pair), steps_(steps), reference_{static_cast<uint32_t>(index), {}, {}} {}

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
  }
  return false;
}

int64_t PairPasses::Common() const {
  for (model::Site site : Sites(/*with_gradients=*/false))
    if (model::SpecOf(site).axes.back() == model::Axis::kKey) return 0;
  const auto& base = pair_.base_ids;
  const auto differ = std::mismatch(base.begin(), base.end(), pair_.source_ids.begin(), pair_.source_ids.end()).first;
  // The last token is always the source's own.
  return std::min<int64_t>(differ - base.begin(), static_cast<int64_t>(pair_.source_ids.size()) - 1);
}

void PairPasses::StepBase() {
  if (base_ == nullptr)
    base_ = std::make_unique<run::GradientRun>(
        model_, pair_.base_ids, Sites(!integrated()),
        run::GradientRun::Options{.with_gradients = !integrated(), .keeps_keys = true, .trunk = nullptr, .common = 0});
  if (base_->StepForward()) return;
  tokens_ += pair_.base_ids.size();
  for (const run::MetricPlan& metric : pair_.base_metrics)
    reference_.base.push_back(Differentiate(model_, metric, base_->normalized()).value);
  stage_ = Stage::kSource;
}

void PairPasses::StepSource() {
  if (source_ == nullptr) {
    const int64_t common = Common();
    source_ = std::make_unique<run::GradientRun>(
        model_, pair_.source_ids, Sites(/*with_gradients=*/false),
        run::GradientRun::Options{.with_gradients = false, .keeps_keys = false, .trunk = base_.get(), .common = common});
    tokens_ += pair_.source_ids.size() - static_cast<size_t>(common);
  }
  if (source_->StepForward()) return;
  for (const run::MetricPlan& metric : pair_.source_metrics)
    reference_.source.push_back(Differentiate(model_, metric, source_->normalized()).value);
  if (integrated())
    stage_ = Stage::kBetween;
  else
    StartBackward();
}

void PairPasses::StepBetween() {
  if (between_ == nullptr) {
    between_ = std::make_unique<run::GradientRun>(
        model_, pair_.base_ids, Sites(/*with_gradients=*/true),
        run::GradientRun::Options{.with_gradients = true, .keeps_keys = false, .trunk = nullptr, .common = 0});
    const double share = (static_cast<double>(step_) + 0.5) / static_cast<double>(steps_);
    between_->BeginWith(base_->resid_pre() + (source_->resid_pre() - base_->resid_pre()) * share);
  }
  if (between_->StepForward()) return;
  tokens_ += pair_.base_ids.size();
  StartBackward();
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
  return ++step_ < passes();
}

}  // namespace fluoroscope::attribution
