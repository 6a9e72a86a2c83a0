#include "run/plan_run.h"

#include <utility>

#include "intervention/region.h"
#include "obs/metrics.h"
#include "run/unsent.h"

namespace fluoroscope::run {

PlanRun::PlanRun(const RunPlan& plan, std::string model_name, ResultWriter& out, obs::Metrics& metrics)
    : plan_(plan), model_name_(std::move(model_name)), metrics_(metrics), kept_(plan.kept_values), lane_{plan, kept_, out} {
  for (std::vector<size_t>& batch : plan_.Batches()) batches_.push_back(std::move(batch));
}

void PlanRun::TakeGiven() {
  for (const GivenPlan& given : plan_.given) {
    const model::SiteSpec& spec = model::SpecOf(given.part.site);
    intervention::Region region;
    region.position_axis = model::PositionAxis(spec);
    region.lines = given.part.positions;
    region.head_axis = model::HeadAxis(spec);
    region.heads = given.part.heads;
    region.units = given.part.units;
    kept_[given.key] = intervention::Read(given.value, region).to(plan_.model->device);
  }
}

int64_t PlanRun::next_lines() const {
  int64_t lines = 0;
  for (const size_t row : batches_.front()) lines += plan_.rows[row].lines();
  return lines;
}

bool PlanRun::next_pools() const { return Pools(plan_, batches_.front(), ResultsOf(plan_, batches_.front()), results_); }

std::vector<size_t> PlanRun::TakeBatch() {
  if (!std::exchange(began_, true)) TakeGiven();
  tokens_ += static_cast<uint64_t>(next_lines());
  results_ += ResultsOf(plan_, batches_.front()).all();
  std::vector<size_t> rows = std::move(batches_.front());
  batches_.pop_front();
  return rows;
}

void PlanRun::GiveBack(std::vector<size_t> rows, std::unique_ptr<BatchRun> begun) {
  if (begun != nullptr) {
    batch_ = std::move(begun);
    return;
  }
  batches_.push_front(std::move(rows));
  tokens_ -= static_cast<uint64_t>(next_lines());
  results_ -= ResultsOf(plan_, batches_.front()).all();
}

bool PlanRun::Step() {
  if (batch_ == nullptr) {
    if (batches_.empty()) return false;
    const auto tokens = static_cast<size_t>(next_lines());
    LaneRows rows;
    AddRows(lane_, TakeBatch(), rows);
    metrics_.ObserveBatch(model_name_, /*runs=*/1, rows.size(), tokens);
    batch_ = std::make_unique<BatchRun>(*plan_.model, std::move(rows));
  }
  if (!batch_->Step()) batch_.reset();
  return batch_ != nullptr || !batches_.empty();
}

}  // namespace fluoroscope::run
