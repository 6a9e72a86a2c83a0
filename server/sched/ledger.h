// What each principal has in flight, and what it and batch work may have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "sched/queued_work.h"

namespace fluoroscope::sched {

// Counts works from Enter to Leave, and the bytes of those that run. The server's own work is not counted. A limit of 0 is none.
// Not safe from several threads: Executor holds its lock around every call.
class Ledger {
 public:
  struct Limits {
    size_t in_flight = 0;  // works of one principal, waiting or running: one more is refused
    size_t running = 0;    // works of one principal that run at once: further ones wait, and others go ahead of them
    uint64_t bytes = 0;    // of one principal's running works together: further ones wait likewise; a larger work is refused
    // Of all batch works together, so that there is room left for interactive ones. A single one may have more bytes.
    size_t batch_running = 0;
    uint64_t batch_bytes = 0;
  };

  explicit Ledger(Limits limits) : limits_(limits) {}

  absl::Status MayEnter(const WorkInfo& info) const;  // RESOURCE_EXHAUSTED with both numbers
  void Enter(const WorkInfo& info);
  // `reserved_bytes` of the budget are not for works. Half of them are taken off the bytes that batch works may have, which are half of the
  // budget, so that of what is left interactive ones still have half.
  bool MayRun(const WorkInfo& info, uint64_t reserved_bytes = 0) const;
  void Run(const WorkInfo& info);
  void Leave(const QueuedWork& work);

 private:
  struct Account {
    size_t in_flight = 0, running = 0;
    uint64_t bytes = 0;  // of the running ones
  };

  const Limits limits_;
  std::map<std::string, Account> accounts_;  // of principals with something in flight
  size_t batch_running_ = 0;
  uint64_t batch_bytes_ = 0;
};

}  // namespace fluoroscope::sched
