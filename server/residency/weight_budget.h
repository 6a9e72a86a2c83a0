// How much memory weights may hold: charged before they are read, given back when the last reference to them is gone.
#pragma once

#include <cstdint>
#include <memory>

namespace fluoroscope::residency {

// Safe from any thread. Charges may outlive it.
class WeightBudget {
  struct State;

 public:
  // Bytes that are held as long as it lives; kept beside the weights, so that whoever drops them last gives the bytes back.
  class Charge {
   public:
    Charge(std::shared_ptr<State> state, uint64_t bytes) : state_(std::move(state)), bytes_(bytes) {}
    ~Charge();
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;
    uint64_t bytes() const { return bytes_; }

   private:
    const std::shared_ptr<State> state_;
    const uint64_t bytes_;
  };

  explicit WeightBudget(uint64_t limit_bytes);

  // Null when there is no room.
  std::shared_ptr<const Charge> TryCharge(uint64_t bytes);

  // Also over the limit: for what was decided without it.
  std::shared_ptr<const Charge> ChargeAnyway(uint64_t bytes);

  uint64_t limit_bytes() const { return limit_; }
  uint64_t charged_bytes() const;

 private:
  const uint64_t limit_;
  const std::shared_ptr<State> state_;
};

}  // namespace fluoroscope::residency
