// The bounded way out of a run.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace fluoroscope::api {

// Where a run's results go, part by part. Implemented by rpc/ (a stream's queue) and by tests; the engine holds it by shared_ptr.
// The producer calls Push from the executor thread and Finish exactly once, last, from any of the engine's threads; neither blocks.
template <typename Part>
class Sink {
 public:
  virtual ~Sink() = default;

  // Takes one part. The sink may hold any amount, but answers how much it wants: false means "enough for now": the run is parked
  // until the sink calls the function given to OnDrain and wants more.
  virtual bool Push(Part part) = 0;

  // Called once, before the first Push. `resume` may be called from any thread, any number of times, until the sink dies. The sink calls
  // it when it wants more, and once more after Finish, when nothing is unsent: until then the run's bytes stay charged. A call says only
  // that something may have changed: it may have been decided long before it arrives.
  virtual void OnDrain(std::function<void()> resume) = 0;

  // Whether it wants more now, after a Push that answered false. Any thread. When it turns true, `resume` is called after that.
  virtual bool WantsMore() const { return true; }

  // After Finish: whether nothing that was pushed is held any more. Any thread. When it turns true, `resume` is called after that. Of a
  // sink that keeps what it gets for itself, the run's charge is no longer the measure.
  virtual bool AllSent() const { return true; }

  // The end: OK after a summary was pushed, else why there is none. Nothing is pushed afterwards.
  virtual void Finish(absl::Status status) = 0;
};

}  // namespace fluoroscope::api
