// One device's thread: admits work by its bytes, steps it, and gives it back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sched/roster.h"
#include "sched/work.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::sched {

// Owns the executor thread and the queue. Works that fit the byte budget together are stepped in turn (running_set.h), so that a short
// request does not wait for a long one to end; the others wait in order of arrival, fair between principals (work_queue.h). In both,
// interactive works come before batch works, which are put off but not starved. Between two
// steps the executor looks at cancellations and deadlines, of waiting and blocked work too. No lock is held while a work is stepped,
// aborted or destroyed.
// All public methods may be called from any thread, Step itself included; the destructor may not be called from Step or Abort.
class Executor {
 public:
  struct Options {
    size_t max_waiting = 256;              // beyond it Submit refuses with RESOURCE_EXHAUSTED
    uint64_t budget_bytes = 0;             // work over it alone is refused with both numbers, never queued
    std::chrono::seconds stuck_after{60};  // a single step longer than this makes Healthy() false
    // How many take turns at once, blocked ones not counted: so that overload fills the queue instead of slowing everybody without end.
    size_t max_running = 64;
    // Of one principal; 0: no limit. Further requests in flight (waiting or running) are refused with RESOURCE_EXHAUSTED and both numbers,
    // as is a single work over the bytes. Works over the other two wait for that principal's own to end, and others go ahead of them.
    size_t max_in_flight_per_principal = 0;
    size_t max_running_per_principal = 0;
    uint64_t bytes_per_principal = 0;
    // Frees at least so many spare bytes and releases them (ReleaseSpare) before it returns; those that somebody copies at this moment a
    // moment later. Called from any thread, without locks.
    std::function<void(uint64_t)> reclaim_spare = [](uint64_t) {};
  };

  Executor(const Options& options, obs::Metrics& metrics);
  ~Executor();  // aborts what is left with UNAVAILABLE and joins the thread

  // Queues work. If it is refused (queue full, over budget, draining, already cancelled or late) its Abort is called before Submit returns.
  void Submit(std::shared_ptr<Work> work, WorkInfo info);

  // Takes bytes of the budget for something that is not work (handles), so that work has that much less. RESOURCE_EXHAUSTED, with the
  // numbers, when running work, other reservations or the largest waiting work leave no room for it. Release gives them back.
  absl::Status Reserve(uint64_t bytes);
  void Release(uint64_t bytes);

  // Takes bytes that nobody needs at this moment, for what can be computed again (a cache). Neither work nor Reserve sees them: they are
  // had back with `reclaim_spare` as soon as one of these wants them. False when there are not so many.
  bool ReserveSpare(uint64_t bytes);
  void ReleaseSpare(uint64_t bytes);

  // Makes a blocked work runnable again. Never lost, however close to the step that returns kBlocked. Harmless for any other work, for
  // one that has ended (its address is compared, never followed) and more than once.
  void Resume(const Work* work);

  // Wakes the executor so that it looks at cancel tokens now, not after its next step or its timer.
  void Poke();

  // From now on Submit refuses with UNAVAILABLE; waits up to `grace` for what is queued and running, then aborts the rest with UNAVAILABLE.
  // Returns when all has ended, at most one step after `grace`. A second call can only shorten the time. From Step or Abort it does not
  // wait: it would wait for itself.
  void Drain(std::chrono::milliseconds grace);

  struct Status {
    std::chrono::steady_clock::duration uptime{}, busy{};  // since the start; of it in steps
    uint64_t finished = 0;                                 // works that have left, however they ended
    std::vector<WorkView> works;                           // as in Roster
  };
  Status GetStatus() const;

  // False while one step (or Abort) has been running for longer than `stuck_after`.
  bool Healthy() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fluoroscope::sched
