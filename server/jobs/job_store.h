// Keeps jobs and their results in one SQLite file, so that they survive the death of the server.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "jobs/job.h"
#include "jobs/sqlite.h"

namespace fluoroscope::jobs {

// Owns the file DIRECTORY/jobs.sqlite, for which no other process may have it open. Used by one thread at a time (the manager's). What a
// method has returned OK for survives the process being killed. Reading asks for the principal: another's job is NOT_FOUND, in the same
// words as one that never was.
class JobStore {
 public:
  struct Options {
    uint32_t max_per_principal = 64;           // jobs of one principal, finished ones too
    uint64_t max_bytes = uint64_t{1} << 28;    // that all jobs are expected to take when they are finished
    std::chrono::seconds keep{7 * 24 * 3600};  // how long a job that has ended is kept
    std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
  };

  // Makes the directory (0700) and the file (0600) when they are not there; jobs that were running become kQueued. UNAVAILABLE when
  // another process has the file open; FAILED_PRECONDITION, with the file's name and what to do, when it is damaged, not ours, or of a
  // newer version.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(const std::string& directory, Options options);

  // RESOURCE_EXHAUSTED, with both numbers, when the principal has too many jobs or all together would take too many bytes.
  absl::StatusOr<JobInfo> Create(JobSpec spec);

  absl::StatusOr<JobInfo> Get(const JobId& id, const std::string& principal);
  absl::StatusOr<std::vector<JobInfo>> List(const std::string& principal);  // newest first; without request, header and summary

  // FAILED_PRECONDITION unless MayBecome. `status` is why, for kFailed and kCancelled; `summary` belongs to kDone.
  absl::Status SetState(const JobId& id, JobState state, const absl::Status& status = absl::OkStatus(), const std::string& summary = "");

  // Appends pieces and their cells, all or none. FAILED_PRECONDITION unless the job is running and `first_sequence` is the next one: so
  // that a piece written twice, or by two runners of the same job, can neither double a cell nor lose one.
  absl::Status Append(const JobId& id, uint64_t first_sequence, const std::vector<Piece>& pieces);

  // The pieces from `from` on, in order; at most `max_bytes` of them, but at least one when there is one.
  absl::StatusOr<std::vector<std::string>> Read(const JobId& id, const std::string& principal, uint64_t from, uint64_t max_bytes);

  absl::Status Delete(const JobId& id, const std::string& principal);

  // Deletes the jobs that ended longer ago than they are kept: so many.
  absl::StatusOr<size_t> DeleteExpired();

  // The jobs that have not ended, oldest first; complete.
  absl::StatusOr<std::vector<JobInfo>> Unfinished();

  // How many jobs are in each state, of all principals; indexed as kAllStates.
  absl::StatusOr<std::array<size_t, kAllStates.size()>> Counts();

 private:
  JobStore(std::unique_ptr<Database> database, Options options) : database_(std::move(database)), options_(std::move(options)) {}
  absl::Status Prepare(const std::string& path);
  absl::Status CheckRoom(const JobSpec& spec);
  int64_t Now() const;  // milliseconds since 1970

  std::unique_ptr<Database> database_;
  const Options options_;
};

}  // namespace fluoroscope::jobs
