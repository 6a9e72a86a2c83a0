#include "attribution/attribution_run.h"

#include "attribution/differentiable_metric.h"
#include "obs/metrics.h"
#include "run/cost.h"

namespace fluoroscope::attribution {

using api::AttributionMethod;
using Clock = std::chrono::steady_clock;

std::string ConventionOf(const AttributionPlan& plan) {
  const std::string change = plan.sweep.cell == api::SweepCell::kZero ? "(0 - a_base)" : "(a_source - a_base)";
  const std::string sign = "; positive where the change would raise the metric above the base run's";
  switch (plan.method) {
    case AttributionMethod::kGradientTimesInput:
      return "gradient x input: sum a_base * dm/da at the base run; the first-order effect of removing the node, with the other sign";
    case AttributionMethod::kIntegratedGradients:
      return "integrated gradients over the inputs: sum " + change + " * mean dm/da over " + std::to_string(plan.steps) +
             " runs whose first hook_resid_pre is base + (i + 1/2) / " + std::to_string(plan.steps) + " * (source - base)" + sign;
    case AttributionMethod::kAttributionPatching:
      break;
  }
  return "attribution patching: sum " + change + " * dm/da at the base run" + sign;
}

api::SweepCost CostOf(const AttributionPlan& plan) {
  const model::Model& model = *plan.sweep.model;
  api::SweepCost cost;
  cost.cells = plan.sweep.cells();
  for (const sweep::Pair& pair : plan.sweep.pairs) {
    run::RunPlan forwards;
    forwards.model = plan.sweep.model;
    const auto add = [&](const std::vector<int64_t>& ids, const std::vector<run::MetricPlan>& metrics) {
      run::RowPlan& row = forwards.rows.emplace_back();
      row.ids = ids;
      row.metrics = metrics;
    };
    add(pair.base_ids, pair.base_metrics);
    add(pair.source_ids, pair.source_metrics);
    forwards.waves = {{0, 1}};
    forwards.Finish();
    const run::Cost run = run::CostOf(forwards);
    const bool integrated = plan.method == AttributionMethod::kIntegratedGradients;
    // A backward pass in the values alone costs what a forward pass does.
    cost.flops +=
        run.flops * (1 + 0.5 * static_cast<double>(pair.base_metrics.size())) * (integrated ? static_cast<double>(plan.steps) : 1);
    const int64_t longest = static_cast<int64_t>(std::max(pair.base_ids.size(), pair.source_ids.size()));
    // The graph, and the values of two runs.
    cost.peak_bytes = std::max(cost.peak_bytes, run.peak_bytes + 2 * static_cast<uint64_t>(run::GradientBytes(model, longest)));
  }
  return cost;
}

AttributionRun::AttributionRun(AttributionPlan plan, api::SweepHeader header, std::vector<std::string> warnings,
                               std::shared_ptr<api::SweepSink> sink, obs::Metrics& metrics, Clock::time_point arrived)
    : plan_(std::move(plan)),
      header_(std::move(header)),
      warnings_(std::move(warnings)),
      sink_(std::move(sink)),
      metrics_(metrics),
      arrived_(arrived),
      sites_(plan_.sweep.grid.sites.begin(), plan_.sweep.grid.sites.end()) {}

sched::Work::Progress AttributionRun::Step() {
  if (!started_) {
    started_ = true;
    queue_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
    sink_->Push(header_);
  }
  const absl::StatusOr<bool> more = meter_.Step([this] { return StepPiece(); });
  if (!more.ok()) {
    if (absl::IsResourceExhausted(more.status())) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
    Abort(more.status());
    return Progress::kDone;
  }
  if (*more) return Progress::kMore;
  sink_->Push(api::SweepSummary{warnings_, queue_ms_, meter_.run_ms(), tokens_, meter_.peak_bytes()});
  sink_->Finish(absl::OkStatus());
  return Progress::kDone;
}

void AttributionRun::Abort(absl::Status why) {
  source_.reset();
  base_.reset();
  between_.reset();
  scores_.clear();
  sink_->Finish(std::move(why));
}

std::unique_ptr<run::GradientRun> AttributionRun::NewRun(const std::vector<int64_t>& ids, bool with_gradients) const {
  return std::make_unique<run::GradientRun>(*plan_.sweep.model, ids, sites_, with_gradients);
}

bool AttributionRun::StepPiece() {
  switch (stage_) {
    case Stage::kSource:
      return StepSource();
    case Stage::kBase:
      return StepBase();
    case Stage::kBackward:
      return StepBackward();
  }
  return false;
}

bool AttributionRun::StepSource() {
  if (source_ == nullptr) {
    source_ = NewRun(pair().source_ids, /*with_gradients=*/false);
    reference_ = {static_cast<uint32_t>(pair_), {}, {}};
    scores_.assign(pair().base_metrics.size(), NodeScores(plan_.sweep.grid));
    step_ = 0;
  }
  if (source_->StepForward()) return true;
  tokens_ += pair().source_ids.size();
  for (const run::MetricPlan& metric : pair().source_metrics)
    reference_.source.push_back(Differentiate(*plan_.sweep.model, metric, source_->normalized()).value);
  stage_ = Stage::kBase;
  return true;
}

// The base run: with gradients where they are taken there, else a plain one, followed by the runs on the way to the source.
bool AttributionRun::StepBase() {
  if (base_ == nullptr) base_ = NewRun(pair().base_ids, /*with_gradients=*/!is_integrated());
  if (reference_.base.empty()) {
    if (base_->StepForward()) return true;
    tokens_ += pair().base_ids.size();
    for (const run::MetricPlan& metric : pair().base_metrics)
      reference_.base.push_back(Differentiate(*plan_.sweep.model, metric, base_->normalized()).value);
    if (is_integrated()) return true;
  }
  if (is_integrated()) {
    if (between_ == nullptr) {
      between_ = NewRun(pair().base_ids, /*with_gradients=*/true);
      const double share = (static_cast<double>(step_) + 0.5) / static_cast<double>(steps());
      between_->BeginWith(base_->resid_pre() + (source_->resid_pre() - base_->resid_pre()) * share);
    }
    if (between_->StepForward()) return true;
    tokens_ += pair().base_ids.size();
  }
  metric_ = 0;
  StartBackward();
  stage_ = Stage::kBackward;
  return true;
}

void AttributionRun::StartBackward() {
  run::GradientRun& run = is_integrated() ? *between_ : *base_;
  const run::MetricPlan& metric = pair().base_metrics[metric_];
  run.StartBackward(Differentiate(*plan_.sweep.model, metric, run.normalized()).gradient,
                    /*last=*/metric_ + 1 == pair().base_metrics.size());
}

bool AttributionRun::StepBackward() {
  if ((is_integrated() ? between_ : base_)->StepBackward()) return true;
  AddScores();
  if (++metric_ < pair().base_metrics.size()) {
    StartBackward();
    return true;
  }
  between_.reset();
  if (++step_ < steps()) {
    stage_ = Stage::kBase;
    return true;
  }
  return FinishPair();
}

void AttributionRun::AddScores() {
  const run::GradientRun& gradients = is_integrated() ? *between_ : *base_;
  for (model::Site site : sites_)
    for (int64_t layer = 0; layer < plan_.sweep.model->arch.layers; ++layer) {
      const at::Tensor own = base_->Value(site, layer);
      const at::Tensor change = plan_.method == AttributionMethod::kGradientTimesInput ? own
                                : plan_.sweep.cell == api::SweepCell::kZero
                                    ? -own
                                    : Difference(site, source_->Value(site, layer), own, pair().source_of);
      scores_[metric_].Add(site, layer, change, gradients.Gradient(site, layer));
    }
}

bool AttributionRun::FinishPair() {
  const size_t cells = plan_.sweep.grid.cells(), metrics = scores_.size();
  api::SweepCells out;
  out.pair = static_cast<uint32_t>(pair_);
  out.cells.resize(cells);
  out.values.resize(cells * metrics);
  for (size_t m = 0; m < metrics; ++m) {
    const std::vector<double> scores = scores_[m].Cells(pair().groups, 1.0 / static_cast<double>(steps()));
    for (size_t cell = 0; cell < cells; ++cell) out.values[cell * metrics + m] = scores[cell];
  }
  for (size_t cell = 0; cell < cells; ++cell) out.cells[cell] = static_cast<uint32_t>(cell);
  sink_->Push(std::move(reference_));
  sink_->Push(std::move(out));
  source_.reset();
  base_.reset();
  stage_ = Stage::kSource;
  return ++pair_ < plan_.sweep.pairs.size();
}

}  // namespace fluoroscope::attribution
