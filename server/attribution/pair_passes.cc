#include "attribution/pair_passes.h"

#include "attribution/differentiable_metric.h"

namespace fluoroscope::attribution {

PairPasses::PairPasses(const model::Model& model, const sweep::Pair& pair, size_t index, int64_t steps)
    : model_(model), pair_(pair), steps_(steps), reference_{static_cast<uint32_t>(index), {}, {}} {}

std::unique_ptr<run::GradientRun> PairPasses::NewRun(const std::vector<int64_t>& ids, bool with_gradients) const {
  return std::make_unique<run::GradientRun>(model_, ids, Sites(with_gradients), with_gradients);
}

bool PairPasses::Step() {
  switch (stage_) {
    case Stage::kSource:
      StepSource();
      return true;
    case Stage::kBase:
      StepBase();
      return true;
    case Stage::kBackward:
      if (!gradients().StepBackward()) stage_ = Stage::kScores;
      return true;
    case Stage::kScores:
      return StepScores(metric_) || Next();
  }
  return false;
}

void PairPasses::StepSource() {
  if (source_ == nullptr) source_ = NewRun(pair_.source_ids, /*with_gradients=*/false);
  if (source_->StepForward()) return;
  tokens_ += pair_.source_ids.size();
  for (const run::MetricPlan& metric : pair_.source_metrics)
    reference_.source.push_back(Differentiate(model_, metric, source_->normalized()).value);
  stage_ = Stage::kBase;
}

// The base run: with gradients where they are taken there, else a plain one, followed by the runs on the way to the source.
void PairPasses::StepBase() {
  if (base_ == nullptr) base_ = NewRun(pair_.base_ids, /*with_gradients=*/!integrated());
  if (reference_.base.empty()) {
    if (base_->StepForward()) return;
    tokens_ += pair_.base_ids.size();
    for (const run::MetricPlan& metric : pair_.base_metrics)
      reference_.base.push_back(Differentiate(model_, metric, base_->normalized()).value);
    if (integrated()) return;
  }
  if (integrated()) {
    if (between_ == nullptr) {
      between_ = NewRun(pair_.base_ids, /*with_gradients=*/true);
      const double share = (static_cast<double>(step_) + 0.5) / static_cast<double>(steps_);
      between_->BeginWith(base_->resid_pre() + (source_->resid_pre() - base_->resid_pre()) * share);
    }
    if (between_->StepForward()) return;
    tokens_ += pair_.base_ids.size();
  }
  metric_ = 0;
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
  between_.reset();
  stage_ = Stage::kBase;
  return ++step_ < passes();
}

}  // namespace fluoroscope::attribution
