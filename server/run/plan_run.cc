#include "run/plan_run.h"

#include "intervention/region.h"
#include "obs/metrics.h"

namespace fluoroscope::run {

PlanRun::PlanRun(const RunPlan& plan, std::string model_name, ResultWriter& out, obs::Metrics& metrics)
    : plan_(plan), model_name_(std::move(model_name)), out_(out), metrics_(metrics), kept_(plan.kept_values) {
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

bool PlanRun::Step() {
  if (!std::exchange(began_, true)) TakeGiven();
  if (batch_ == nullptr) {
    if (batches_.empty()) return false;
    size_t tokens = 0;
    for (size_t row : batches_.front()) tokens += static_cast<size_t>(plan_.rows[row].lines());
    tokens_ += tokens;
    metrics_.ObserveBatch(model_name_, batches_.front().size(), tokens);
    batch_ = std::make_unique<BatchRun>(plan_, std::move(batches_.front()), kept_, out_);
    batches_.pop_front();
  }
  if (!batch_->Step()) batch_.reset();
  return batch_ != nullptr || !batches_.empty();
}

}  // namespace fluoroscope::run
