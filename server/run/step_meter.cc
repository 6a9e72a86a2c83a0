#include "run/step_meter.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "tensor/counting_allocator.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::run {
namespace {

using Clock = std::chrono::steady_clock;

// Small pieces are put together until a step has taken this long: long enough that the queue costs nothing, short enough that a cancelled
// run ends and another one's turn comes soon.
constexpr std::chrono::milliseconds kStepTime{20};

}  // namespace

void StepMeter::AddShare(double run_ms, uint64_t peak_bytes, uint64_t held_bytes) {
  run_ms_ += run_ms;
  peak_bytes_ = std::max(peak_bytes_, held_bytes_ + peak_bytes);
  held_bytes_ += held_bytes;
}

absl::StatusOr<bool> StepMeter::Step(const std::function<bool()>& piece) {
  const Clock::time_point start = Clock::now();
  bool more = true;
  // What other runs hold at this moment is not this run's; what it already held itself is added below.
  tensor::ResetPeak();
  const uint64_t live_before = tensor::Stats().work.live_bytes;
  // Results are counted as released before they are freed, and both numbers read in this order here, and in the other one below: of what
  // goes at that very moment nothing is taken for held, and some may be taken off twice.
  held_bytes_ -= std::min(held_bytes_, Released() - released_seen_);
  const absl::Status status = tensor::GuardTorch([&] {
    const c10::InferenceMode no_gradients;
    while ((more = piece()) && Clock::now() - start < kStepTime) {
    }
  });
  run_ms_ += std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  released_seen_ = Released();
  const tensor::AccountStats memory = tensor::Stats().work;
  peak_bytes_ = std::max(peak_bytes_, held_bytes_ + memory.peak_bytes - live_before);
  // Results that other threads sent and freed meanwhile make this a little small, never large.
  const int64_t grown = static_cast<int64_t>(memory.live_bytes) - static_cast<int64_t>(live_before);
  held_bytes_ = static_cast<uint64_t>(std::max<int64_t>(0, static_cast<int64_t>(held_bytes_) + grown));
  if (!status.ok()) return status;
  return more;
}

}  // namespace fluoroscope::run
