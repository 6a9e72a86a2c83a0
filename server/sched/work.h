// The scheduler's whole idea of a request: something opaque that is stepped.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "base/cancel.h"

namespace fluoroscope::sched {

// One admitted run. Implemented above sched/ (engine/). The executor shares ownership until the work is done or aborted.
class Work {
 public:
  enum class Progress {
    kMore,     // step me again
    kGoOn,     // the same, and my turn is not over: it was a short step, so that others can be admitted. After 20 ms of such steps it is
    kBlocked,  // my reader is slow: do not step me until Executor::Resume, which may be one that was on its way before; my bytes stay
               // charged
    kDone,     // finished, the result or the failure has been delivered
  };

  virtual ~Work() = default;

  // It has been admitted and will get turns: here it may make known to others what it is about to do, so that a turn of theirs does it too.
  // Called on the executor's thread, before the first Step. Must not block or throw.
  virtual void Admitted() {}

  // A bounded piece of work, about 25 ms. Called on the executor's thread only, never after kDone or Abort. Must not throw.
  virtual Progress Step() = 0;

  // The end without a result: refused, cancelled, past its deadline, or drained. Called at most once, never after kDone, never during
  // Step; from the executor's thread, or from Submit's caller when the work is refused at once. Must not block or throw.
  virtual void Abort(absl::Status why) = 0;
};

// Interactive: somebody waits for it. Batch: it may take its time, and lets the others go first (work_queue.h and running_set.h say how
// far).
enum class Priority { kInteractive, kBatch };

// What the scheduler knows about a piece of work.
struct WorkInfo {
  std::string principal;    // who pays
  uint64_t peak_bytes = 0;  // charged against the budget from admission to the end
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  CancelToken cancel;
  Priority priority = Priority::kInteractive;
  double flops = 0;         // what it will take of the device's time
  bool is_servers = false;  // the server's own work: no principal's limits
};

}  // namespace fluoroscope::sched
