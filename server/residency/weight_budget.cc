#include "residency/weight_budget.h"

#include <mutex>

namespace fluoroscope::residency {

struct WeightBudget::State {
  std::mutex mutex;
  uint64_t charged = 0;  // guarded by mutex
};

WeightBudget::Charge::~Charge() {
  const std::lock_guard lock(state_->mutex);
  state_->charged -= bytes_;
}

WeightBudget::WeightBudget(uint64_t limit_bytes) : limit_(limit_bytes), state_(std::make_shared<State>()) {}

std::shared_ptr<const WeightBudget::Charge> WeightBudget::TryCharge(uint64_t bytes) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->charged > limit_ || bytes > limit_ - state_->charged) return nullptr;
    state_->charged += bytes;
  }
  return std::make_shared<const Charge>(state_, bytes);
}

std::shared_ptr<const WeightBudget::Charge> WeightBudget::ChargeAnyway(uint64_t bytes) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->charged += bytes;
  }
  return std::make_shared<const Charge>(state_, bytes);
}

uint64_t WeightBudget::charged_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->charged;
}

}  // namespace fluoroscope::residency
