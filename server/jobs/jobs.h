// What the Jobs service talks to.
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

// Takes down one job's results, as messages in the order in which they are to be read: header, pieces, summary. Called on the jobs thread,
// one call at a time; must not block. A slow watcher holds no memory of the server's: the next page is read when it asks for it.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;

  // Some more, at least one. Nothing more comes before `more` is called, from any thread, any number of times: when this page is used up.
  virtual void OnMessages(std::vector<std::string> messages, std::function<void()> more) = 0;

  // Once, last: OK behind the summary of a job that is done; else why it is not. UNAVAILABLE: the server shuts down, the job goes on later.
  virtual void OnEnd(absl::Status status) = 0;
};

// Every method may be called from any thread and returns at once; answers come through the callback, exactly once. Jobs belong to their
// principal: another's is NOT_FOUND. Every answer is FAILED_PRECONDITION where the configuration has no directory for jobs.
class Jobs {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  virtual ~Jobs() = default;

  // Plans a request and keeps it as a job of the caller's. Errors are those of the request itself, and RESOURCE_EXHAUSTED.
  virtual void Submit(std::string kind, std::string request, api::CallContext call, Callback<JobInfo> done) = 0;
  virtual void Get(const JobId& id, const std::string& principal, Callback<JobInfo> done) = 0;
  // Newest first; without their requests, headers and summaries.
  virtual void List(const std::string& principal, Callback<std::vector<JobInfo>> done) = 0;
  // FAILED_PRECONDITION for a job that has ended. The answer is the job as it then is.
  virtual void Cancel(const JobId& id, const std::string& principal, Callback<JobInfo> done) = 0;
  // Stops it, too, if it has not ended.
  virtual void Delete(const JobId& id, const std::string& principal, Callback<JobId> done) = 0;

  // From the header on, whatever is finished already. Forgets a watcher that is gone.
  virtual void Watch(const JobId& id, const std::string& principal, std::weak_ptr<JobWatcher> watcher) = 0;

  // Begins to run what an earlier process left unfinished, and from then on what is submitted. Once, before serving.
  virtual void Begin() = 0;
  // Starts nothing any more and stops what is running, so that it can be resumed by the next process. Returns when that is under way.
  virtual void Suspend() = 0;
  // Ends all watches. Afterwards every call is answered with UNAVAILABLE. Returns when what was called before is answered.
  virtual void Close() = 0;
};

// For servers without a directory for jobs: refuses, and says what to set.
std::unique_ptr<Jobs> NoJobs();

}  // namespace fluoroscope::jobs
