// How a run's small pieces are put together into steps of the executor, and what they cost.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"

namespace fluoroscope::run {

// Belongs to one Work; used on the executor's thread.
class StepMeter {
 public:
  // `released`: counts up, from any thread, the bytes of the run's results that are about to be freed. Without it, what is freed between
  // two steps counts as held.
  explicit StepMeter(std::shared_ptr<const std::atomic<uint64_t>> released = nullptr) : released_(std::move(released)) {}

  // Calls `piece` until it returns false or a step's time is over, without gradients and behind the exception border. Returns whether
  // there is more. RESOURCE_EXHAUSTED when memory ran out, INTERNAL for what else LibTorch throws.
  absl::StatusOr<bool> Step(const std::function<bool()>& piece);

  // Of a step that several runs shared and another meter measured: how long it took, and this run's part of the most bytes held in it and
  // of those that were left.
  void AddShare(double run_ms, uint64_t peak_bytes, uint64_t held_bytes);

  double run_ms() const { return run_ms_; }
  uint64_t peak_bytes() const { return peak_bytes_; }  // the most that this run held at once, as the counting allocator saw it
  uint64_t held_bytes() const { return held_bytes_; }  // what it holds now, between two steps

 private:
  uint64_t Released() const { return released_ == nullptr ? 0 : released_->load(); }

  std::shared_ptr<const std::atomic<uint64_t>> released_;
  uint64_t released_seen_ = 0;  // of them, those that held_bytes_ is without
  double run_ms_ = 0;
  uint64_t held_bytes_ = 0;  // between steps
  uint64_t peak_bytes_ = 0;
};

}  // namespace fluoroscope::run
