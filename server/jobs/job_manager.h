// Binds the store, the runner and the watchers together.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "jobs/job_runner.h"
#include "jobs/job_store.h"
#include "jobs/job_thread.h"
#include "jobs/jobs.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::jobs {

// Owns the store and the jobs thread. All state below belongs to that thread: the public methods, and the outputs that it gives to the
// runner, only post to it, so there is no lock but the thread's queue. At most one job of a principal runs at a time and kMaxRunning of
// all, oldest first; the executor shares the device between them and other calls. `runner` and `metrics` outlive the manager; the runner
// may call outputs until the manager is destroyed.
class JobManager final : public Jobs {
 public:
  JobManager(std::unique_ptr<JobStore> store, JobRunner& runner, obs::Metrics& metrics);
  ~JobManager() override;

  void Submit(std::string kind, std::string request, api::CallContext call, Callback<JobInfo> done) override;
  void Get(const JobId& id, const std::string& principal, Callback<JobInfo> done) override;
  void List(const std::string& principal, Callback<std::vector<JobInfo>> done) override;
  void Cancel(const JobId& id, const std::string& principal, Callback<JobInfo> done) override;
  void Delete(const JobId& id, const std::string& principal, Callback<JobId> done) override;
  void Watch(const JobId& id, const std::string& principal, std::weak_ptr<JobWatcher> watcher) override;
  void Begin() override;
  void Suspend() override;
  void Close() override;

 private:
  static constexpr size_t kMaxRunning = 4;

  class Output;
  // A job that the runner has and has not ended.
  struct Running {
    std::string principal;
    uint64_t next_sequence = 0;
    bool unwanted = false;  // cancelled, deleted or failed here: what still comes is dropped
  };
  struct Watching {
    std::string principal;
    std::weak_ptr<JobWatcher> watcher;
    bool headed = false;  // has the header
    bool hungry = false;  // has asked for more than there was
    uint64_t next = 0;    // the first piece it does not have
  };

  template <typename T>
  void Answer(Callback<T> done, std::function<absl::StatusOr<T>()> answer);

  // All on the jobs thread:
  absl::StatusOr<JobInfo> Create(const JobSpec& spec);
  absl::StatusOr<JobInfo> CancelNow(const JobId& id, const std::string& principal);
  absl::StatusOr<JobId> DeleteNow(const JobId& id, const std::string& principal);
  void StartNext();
  void StartJob(const JobInfo& job);
  void Take(const JobId& id, const std::vector<Piece>& pieces);
  void Ended(const JobId& id, absl::Status status, const std::string& summary);
  void Drop(const JobId& id);
  absl::Status Change(const JobId& id, JobState state, const absl::Status& why = absl::OkStatus(), const std::string& summary = "");
  void Feed(const JobId& id);  // every watcher of the job that has asked for more
  void More(const JobId& id, uint64_t watch);
  bool FeedOne(const JobId& id, uint64_t number, Watching& watching);  // false: it has ended, or is gone
  void ShowCounts();

  const std::unique_ptr<JobStore> store_;
  JobRunner& runner_;
  obs::Metrics& metrics_;
  std::map<JobId, Running> running_;
  std::map<JobId, std::map<uint64_t, Watching>> watches_;
  uint64_t next_watch_ = 0;
  bool begun_ = false, suspended_ = false, closed_ = false;
  JobThread thread_;  // last: gone before the rest
};

}  // namespace fluoroscope::jobs
