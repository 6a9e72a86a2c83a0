// Decides when a stuck executor is given up.
#pragma once

#include <chrono>

namespace fluoroscope {

// A step that never ends (a lost device, a deadlock) cannot be ended from outside: all that helps is a new process. So one that has been
// stuck for `end_after` is ended, for its supervisor to start again. Until then it may come back by itself; meanwhile it is unhealthy.
// Used by one thread, which looks about once a second.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;
  enum class State { kFine, kStuck, kEnd };

  explicit Watchdog(std::chrono::milliseconds end_after) : end_after_(end_after) {}

  // `healthy`: what the executor says now.
  State Look(bool healthy, Clock::time_point now = Clock::now()) {
    if (healthy || !stuck_) since_ = now;
    stuck_ = !healthy;
    if (healthy) return State::kFine;
    return now - since_ >= end_after_ ? State::kEnd : State::kStuck;
  }

 private:
  const std::chrono::milliseconds end_after_;
  bool stuck_ = false;
  Clock::time_point since_;  // when it was last looked at and was not stuck yet
};

}  // namespace fluoroscope
