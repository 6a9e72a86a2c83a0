// Who is in flight, for those who want to look.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sched/queued_work.h"

namespace fluoroscope::sched {

// A work as somebody outside sees it.
struct WorkView {
  std::string principal;
  Priority priority = Priority::kInteractive;
  bool running = false;
  Clock::time_point arrived;
  uint64_t peak_bytes = 0;
  double flops = 0;
};

// Lists the works between Enter and Leave. Not safe from several threads: Executor holds its lock around every call. Works are compared by
// address, never followed.
class Roster {
 public:
  void Enter(const QueuedWork& work);
  void Run(const Work* work);
  void Leave(const Work* work);

  // Running ones first, in order of arrival. The server's own work is left out.
  std::vector<WorkView> works() const;
  uint64_t finished() const { return finished_; }

 private:
  struct Entry {
    const Work* work;
    WorkView view;
  };
  std::vector<Entry> entries_;
  uint64_t finished_ = 0;
};

}  // namespace fluoroscope::sched
