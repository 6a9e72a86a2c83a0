// Who is admitted next: the waiting works, interactive ones first, fair between principals.
#pragma once

#include <array>
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

// Owns the waiting works. Of each priority every principal has a line of its own, in order of arrival, and the lines take turns: one work a
// turn, so that a thousand requests of one user delay another's first by one. A turn is worth `share_bytes` of memory or `share_flops` of
// computation; after a larger work its principal lets as many further turns pass as it has used shares more, so that big requests do not
// get the device for the price of small ones.
//
// Interactive works go before batch works, but after kInteractivePerBatch of them it is a batch work's turn. When that does not fit into
// what is free, interactive ones go on for up to kMostPassed, and then everybody waits for it: it is put off, never starved.
// Not safe from several threads: Executor holds its lock around every call. Works are handed out, never destroyed in here.
class WorkQueue {
 public:
  static constexpr int kInteractivePerBatch = 4;
  static constexpr int kMostPassed = 64;

  // share_flops of 0: computation is not counted.
  explicit WorkQueue(uint64_t share_bytes, double share_flops = 0);

  void Push(QueuedWork work);

  // The next work that may start when `free_bytes` of the budget are free and running works hold `running_bytes`, which will come back by
  // themselves. A first in turn that does not fit waits for those, and nobody passes it, so that a large work is not starved by
  // small ones. Only when even they would not be enough, because parked works (slow readers) hold the rest, do the next principals' works
  // go ahead: one client that does not read must not stop the others. A line whose first `may_run` refuses is passed too: its principal's
  // own works must end first.
  using MayRun = std::function<bool(const WorkInfo&)>;
  std::optional<QueuedWork> PopNext(uint64_t free_bytes, uint64_t running_bytes, const MayRun& may_run = {});

  // Takes out, in order of the lines, every work for which `ended` holds.
  std::vector<QueuedWork> Remove(const std::function<bool(const QueuedWork&)>& ended);

  size_t size() const { return interactive().size + batch().size; }
  uint64_t LargestBytes() const;           // of the waiting works; 0 without any
  Clock::time_point NextDeadline() const;  // the earliest; Clock::time_point::max() without any

 private:
  struct Line {
    std::string principal;
    std::deque<QueuedWork> works;
    uint64_t turns_owed = 0;  // a line that still owes stays here when it is empty, else its principal would return without debts
  };
  struct Class {
    std::list<Line> lines;  // in order of their turns
    size_t size = 0;        // works
  };
  struct Popped {
    std::optional<QueuedWork> work;
    bool waits = false;  // there is a first in turn for which the running works must end
  };

  Popped PopFrom(Class& from, uint64_t free_bytes, uint64_t running_bytes, const MayRun& may_run);
  uint64_t TurnsFor(const WorkInfo& info) const;
  Class& Of(Priority priority) { return classes_[static_cast<size_t>(priority)]; }
  const Class& interactive() const { return classes_[static_cast<size_t>(Priority::kInteractive)]; }
  const Class& batch() const { return classes_[static_cast<size_t>(Priority::kBatch)]; }

  const uint64_t share_bytes_;
  const double share_flops_;
  std::array<Class, 2> classes_;  // by priority
  int passed_ = 0;                // interactive works that were handed out since batch work has waited for its turn
};

}  // namespace fluoroscope::sched
