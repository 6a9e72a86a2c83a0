// Long work that outlives its call: what a job is, and what keeps it. A contract only: nothing implements these interfaces yet. The
// first user is a sweep of more than a minute; the store will be one SQLite file, so that a job survives the death of the server.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/random_id.h"

namespace fluoroscope::jobs {

using JobId = Id<struct JobTag>;  // 128 random bits

// kQueued -> kRunning -> one of the ends. A job found kRunning when the server starts goes back to kQueued and is resumed.
enum class JobState { kQueued, kRunning, kDone, kFailed, kCancelled };

constexpr bool IsEnd(JobState state) { return state == JobState::kDone || state == JobState::kFailed || state == JobState::kCancelled; }

constexpr bool MayBecome(JobState from, JobState to) {
  switch (from) {
    case JobState::kQueued:
      return to == JobState::kRunning || to == JobState::kFailed || to == JobState::kCancelled;
    case JobState::kRunning:
      return to == JobState::kQueued || IsEnd(to);
    default:
      return false;  // an end is an end
  }
}

struct Progress {
  uint64_t done = 0;
  uint64_t total = 0;  // known from the start: a job is planned before it is created
};

// Everything needed to run a job, and to run the rest of it after a restart.
struct JobSpec {
  std::string principal;    // who pays and who may look
  std::string kind;         // "sweep"; chooses the Runner
  std::string plan;         // the canonical resolved plan, opaque to jobs/
  std::string plan_sha256;  // with weights_sha256: a job is resumed only into the same computation
  std::string weights_sha256;
};

struct JobInfo {
  JobId id;
  JobSpec spec;
  JobState state = JobState::kQueued;
  Progress progress;
  absl::Status status;  // why, for kFailed and kCancelled
  std::chrono::system_clock::time_point created, changed;
};

// One appended piece of result: finished cells, opaque to jobs/. Numbered from 0 without gaps within a job.
struct Checkpoint {
  uint64_t sequence = 0;
  std::string blob;
  Progress progress;  // with this piece included
};

// Keeps jobs. Every method may be called from any thread, and what it has returned OK for survives the process being killed.
// Reading and changing ask for the principal: another's job is NOT_FOUND, like one that never was.
class JobStore {
 public:
  virtual ~JobStore() = default;

  virtual absl::StatusOr<JobId> Create(JobSpec spec) = 0;
  virtual absl::StatusOr<JobInfo> Get(const JobId& id, const std::string& principal) const = 0;
  virtual absl::StatusOr<std::vector<JobInfo>> List(const std::string& principal) const = 0;

  // FAILED_PRECONDITION unless MayBecome. `status` is why, for kFailed and kCancelled.
  virtual absl::Status SetState(const JobId& id, JobState state, absl::Status status) = 0;

  // Appends a piece and sets the progress, both or neither. `sequence` must be the next one, else FAILED_PRECONDITION: so that a piece
  // written twice, or by two runners of the same job, can neither double a cell nor lose one.
  virtual absl::Status Append(const JobId& id, Checkpoint piece) = 0;

  // The pieces from `from_sequence` on, in order; at most `max_bytes` of them, but at least one when there is one.
  virtual absl::StatusOr<std::vector<Checkpoint>> Read(const JobId& id, const std::string& principal, uint64_t from_sequence,
                                                       uint64_t max_bytes) const = 0;

  // The jobs that are not at an end, oldest first: what to resume when the server starts.
  virtual absl::StatusOr<std::vector<JobInfo>> Unfinished() const = 0;
};

// Hears of one job. Called on the thread that changed it, in order; must not block or throw.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;

  // There is more to Read, up to but not including `next_sequence`. Only a hint: pieces are read from the store, so that a slow watcher
  // holds no memory, and each of several watchers sees all pieces from wherever it begins.
  virtual void OnProgress(const Progress& progress, uint64_t next_sequence) = 0;

  // Once, last. Nothing is called afterwards.
  virtual void OnEnd(JobState state, const absl::Status& status) = 0;
};

// Runs one kind of job. Implemented above jobs/ (engine/), on top of sched/: its steps are ordinary Work.
class JobRunner {
 public:
  // Appends a piece as Checkpoint::sequence demands. A status that is not OK means: stop, the job cannot go on.
  using AppendFunction = std::function<absl::Status(std::string blob, Progress progress)>;
  // The end, exactly once, from any thread: OK, or why not.
  using EndFunction = std::function<void(absl::Status)>;

  virtual ~JobRunner() = default;

  // Starts a job or the rest of it and returns at once. `finished` are the pieces of earlier runs, empty at first: what they
  // hold is not computed again. FAILED_PRECONDITION when weights or plan are no longer those of `job.spec`.
  virtual absl::Status Start(const JobInfo& job, std::vector<Checkpoint> finished, AppendFunction append, EndFunction end) = 0;

  // Asks for the end; `end` is still called. Harmless for a job that is not running.
  virtual void Cancel(const JobId& id) = 0;
};

// What the Jobs service talks to: owns the running jobs, binds a store to the runners. Every method may be called from any thread.
class JobManager {
 public:
  virtual ~JobManager() = default;

  virtual absl::StatusOr<JobId> Submit(JobSpec spec) = 0;
  virtual absl::Status Cancel(const JobId& id, const std::string& principal) = 0;

  // Keeps `watcher` until its OnEnd or until the caller drops it. The state at this moment is the first thing it hears.
  virtual absl::Status Watch(const JobId& id, const std::string& principal, std::weak_ptr<JobWatcher> watcher) = 0;

  // Resumes what an earlier process left unfinished. Once, before serving.
  virtual absl::Status ResumeAll() = 0;
};

}  // namespace fluoroscope::jobs
