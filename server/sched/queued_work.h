// A work with what the executor knows about it, while the executor has it.
#pragma once

#include <chrono>
#include <memory>

#include "sched/work.h"

namespace fluoroscope::sched {

using Clock = std::chrono::steady_clock;

struct QueuedWork {
  std::shared_ptr<Work> work;
  WorkInfo info;
  Clock::time_point arrived;
  bool admitted = false;  // it runs, and its bytes are charged
};

}  // namespace fluoroscope::sched
