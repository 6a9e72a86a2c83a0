// Who runs jobs: implemented above jobs/, in engine/, on top of sched/.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/call.h"
#include "jobs/job.h"

namespace fluoroscope::jobs {

// Where a running job's results go. Both methods may be called from any thread, never block, and are in order.
class JobOutput {
 public:
  virtual ~JobOutput() = default;
  virtual void Append(Piece piece) = 0;
  // The end, exactly once, last: OK with a summary, or why not. UNAVAILABLE: not now, the job is to be started again.
  virtual void End(absl::Status status, std::string summary) = 0;
};

// The methods are called on the jobs thread (Plan on any) and return at once.
class JobRunner {
 public:
  virtual ~JobRunner() = default;

  // Makes a job of a request, or says what is wrong with it. `done` is called exactly once, from any thread.
  virtual void Plan(std::string kind, std::string request, api::CallContext call, std::function<void(absl::StatusOr<JobSpec>)> done) = 0;

  // Starts a job or the rest of it. `finished` are the pieces that earlier runs appended: what they hold is not computed again. Ends with
  // FAILED_PRECONDITION when weights, plan, dtype or device are no longer those of `job.spec`. Gives `output` up after End.
  virtual void Start(JobInfo job, std::vector<std::string> finished, std::shared_ptr<JobOutput> output) = 0;

  // Asks for the end; the output's End is still called. Harmless for a job that is not running.
  virtual void Stop(const JobId& id) = 0;
};

}  // namespace fluoroscope::jobs
