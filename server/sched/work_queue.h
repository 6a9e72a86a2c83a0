// Who is admitted next: the waiting works, fair between principals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "sched/queued_work.h"

namespace fluoroscope::sched {

// Owns the waiting works. Each principal has a line of its own, in order of arrival, and the lines take turns: one work a turn, so that
// a thousand requests of one user delay another's first by one. A turn is worth `share_bytes`: after a larger work its principal lets as
// many further turns pass as it has used shares more, so that big requests do not get the device for the price of small ones.
// Not safe from several threads: Executor holds its lock around every call. Works are handed out, never destroyed in here.
class WorkQueue {
 public:
  explicit WorkQueue(uint64_t share_bytes);

  void Push(QueuedWork work);

  // The next work that may start when `free_bytes` of the budget are free and running works hold `running_bytes`, which will come back by
  // themselves. A first in turn that does not fit waits for those, and nobody passes it, so that a large work is not starved by
  // small ones. Only when even they would not be enough, because parked works (slow readers) hold the rest, do the next principals' works
  // go ahead: one client that does not read must not stop the others.
  std::optional<QueuedWork> PopNext(uint64_t free_bytes, uint64_t running_bytes);

  // Takes out, in order of the lines, every work for which `ended` holds.
  std::vector<QueuedWork> Remove(const std::function<bool(const QueuedWork&)>& ended);

  size_t size() const { return size_; }
  uint64_t LargestBytes() const;           // of the waiting works; 0 without any
  Clock::time_point NextDeadline() const;  // the earliest; Clock::time_point::max() without any

 private:
  struct Line {
    std::string principal;
    std::deque<QueuedWork> works;
    uint64_t turns_owed = 0;  // a line that still owes stays here when it is empty, else its principal would return without debts
  };

  const uint64_t share_bytes_;
  std::list<Line> lines_;  // in order of their turns
  size_t size_ = 0;
};

}  // namespace fluoroscope::sched
