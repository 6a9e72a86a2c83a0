// Works as a queue or a set of running ones holds them, for tests that run nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "sched/queued_work.h"

namespace fluoroscope::sched {

class NoWork : public Work {
 public:
  Progress Step() override { return Progress::kDone; }
  void Abort(absl::Status) override {}
};

// `work`: null for one that does nothing.
inline QueuedWork Queued(const std::string& principal, uint64_t bytes = 1, Clock::time_point deadline = Clock::time_point::max(),
                         Priority priority = Priority::kInteractive, std::shared_ptr<Work> work = nullptr) {
  return {.work = work != nullptr ? std::move(work) : std::make_shared<NoWork>(),
          .info = {.principal = principal, .peak_bytes = bytes, .deadline = deadline, .cancel = {}, .priority = priority},
          .arrived = {}};
}

}  // namespace fluoroscope::sched
