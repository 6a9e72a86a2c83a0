// Long work that outlives its call: what a job is.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/random_id.h"

namespace fluoroscope::jobs {

using JobId = Id<struct JobTag>;  // 128 random bits

// kQueued -> kRunning -> one of the ends. A job that was running when its process ended goes back to kQueued and is resumed.
enum class JobState { kQueued, kRunning, kDone, kFailed, kCancelled };
inline constexpr std::array kAllStates = {JobState::kQueued, JobState::kRunning, JobState::kDone, JobState::kFailed, JobState::kCancelled};

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

// As logs and metrics have it.
constexpr std::string_view NameOf(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "queued";
    case JobState::kRunning:
      return "running";
    case JobState::kDone:
      return "done";
    case JobState::kFailed:
      return "failed";
    case JobState::kCancelled:
      return "cancelled";
  }
  return "";
}

// Everything needed to run a job, and to run the rest of it after a restart. `request` and `header` are opaque here: bytes as they went
// over the wire, because fields of a message are only ever added, so a later version of the server still reads them.
struct JobSpec {
  std::string principal;  // who pays and who may look
  std::string kind;       // which message `request` is: "sweep" or "path_patch"
  std::string model;
  std::string request;
  std::string header;  // what a watcher gets first
  uint64_t cells = 0;  // known from the start: a job is planned before it is created
  // A job is resumed only into the same computation:
  std::string plan_sha256, weights_sha256;
  std::string numbers;          // dtype and device, "f32 on cpu"
  uint64_t expected_bytes = 0;  // what it will take in the store when it is finished
};

struct JobInfo {
  JobId id;
  JobSpec spec;
  JobState state = JobState::kQueued;
  uint64_t done = 0;           // cells, of spec.cells
  uint64_t next_sequence = 0;  // so many pieces there are
  std::string summary;         // opaque as well, of kDone; what a watcher gets last
  absl::Status status;         // why, for kFailed and kCancelled
  std::chrono::system_clock::time_point created, changed;
};

// One appended piece of result, opaque to jobs/. Pieces are numbered from 0 without gaps within a job.
struct Piece {
  std::string bytes;
  uint64_t cells = 0;  // that it finishes
};

}  // namespace fluoroscope::jobs
