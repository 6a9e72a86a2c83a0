#include "jobs/job_manager.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "base/status_macros.h"
#include "obs/metrics.h"
#include "spdlog/spdlog.h"

namespace fluoroscope::jobs {
namespace {

constexpr uint64_t kPageBytes = uint64_t{1} << 20;  // what a watcher gets at a time
constexpr uint64_t kEverything = uint64_t{1} << 62;
constexpr std::chrono::milliseconds kTryAgain{1000};  // when the runner could not take a job

absl::Status ShuttingDown() { return absl::UnavailableError("the server is shutting down; jobs go on when it starts again"); }

}  // namespace

// Gathers what a job brings until the jobs thread gets there, so that many small pieces are one transaction.
class JobManager::Output final : public JobOutput, public std::enable_shared_from_this<Output> {
 public:
  Output(JobManager& manager, const JobId& id) : manager_(manager), id_(id) {}

  void Append(Piece piece) override {
    {
      const std::lock_guard lock(mutex_);
      pieces_.push_back(std::move(piece));
      if (std::exchange(posted_, true)) return;
    }
    manager_.thread_.Post([self = shared_from_this()] { self->manager_.Take(self->id_, self->Gathered()); });
  }

  void End(absl::Status status, std::string summary) override {
    manager_.thread_.Post([self = shared_from_this(), status = std::move(status), summary = std::move(summary)] {
      self->manager_.Ended(self->id_, status, summary);
    });
  }

 private:
  std::vector<Piece> Gathered() {
    const std::lock_guard lock(mutex_);
    posted_ = false;
    return std::exchange(pieces_, {});
  }

  JobManager& manager_;
  const JobId id_;
  std::mutex mutex_;           // guards the rest
  std::vector<Piece> pieces_;  // not yet taken
  bool posted_ = false;        // the jobs thread will come for them
};

JobManager::JobManager(std::unique_ptr<JobStore> store, JobRunner& runner, obs::Metrics& metrics)
    : store_(std::move(store)), runner_(runner), metrics_(metrics) {
  thread_.Post([this] { ShowCounts(); });
}

JobManager::~JobManager() = default;

template <typename T>
void JobManager::Answer(Callback<T> done, std::function<absl::StatusOr<T>()> answer) {
  thread_.Post([this, done = std::move(done), answer = std::move(answer)] {
    if (closed_) return done(ShuttingDown());
    // Nobody waits for the clock: what has expired goes when somebody looks.
    if (const auto expired = store_->DeleteExpired(); expired.ok() && *expired > 0) ShowCounts();
    done(answer());
  });
}

void JobManager::Submit(std::string kind, std::string request, api::CallContext call, Callback<JobInfo> done) {
  runner_.Plan(std::move(kind), std::move(request), call, [this, call, done = std::move(done)](absl::StatusOr<JobSpec> spec) {
    if (!spec.ok()) return done(spec.status());
    Answer<JobInfo>(done, [this, call, spec = *std::move(spec)]() -> absl::StatusOr<JobInfo> {
      if (call.cancel.cancelled()) return absl::CancelledError("the client went away");
      return Create(spec);
    });
  });
}

void JobManager::Get(const JobId& id, const std::string& principal, Callback<JobInfo> done) {
  Answer<JobInfo>(std::move(done), [this, id, principal] { return store_->Get(id, principal); });
}

void JobManager::List(const std::string& principal, Callback<std::vector<JobInfo>> done) {
  Answer<std::vector<JobInfo>>(std::move(done), [this, principal] { return store_->List(principal); });
}

void JobManager::Cancel(const JobId& id, const std::string& principal, Callback<JobInfo> done) {
  Answer<JobInfo>(std::move(done), [this, id, principal] { return CancelNow(id, principal); });
}

void JobManager::Delete(const JobId& id, const std::string& principal, Callback<JobId> done) {
  Answer<JobId>(std::move(done), [this, id, principal] { return DeleteNow(id, principal); });
}

void JobManager::Watch(const JobId& id, const std::string& principal, std::weak_ptr<JobWatcher> watcher) {
  thread_.Post([this, id, principal, watcher = std::move(watcher)] {
    if (closed_) {
      if (const auto there = watcher.lock()) there->OnEnd(ShuttingDown());
      return;
    }
    const uint64_t number = next_watch_++;
    watches_[id].emplace(number, Watching{principal, watcher});
    More(id, number);
  });
}

void JobManager::Begin() {
  thread_.Post([this] {
    begun_ = true;
    StartNext();
  });
}

void JobManager::Suspend() {
  thread_.Post([this] {
    suspended_ = true;
    for (const auto& [id, running] : running_) runner_.Stop(id);
  });
  thread_.Flush();
}

void JobManager::Close() {
  thread_.Post([this] {
    suspended_ = closed_ = true;
    for (const auto& [id, watches] : std::exchange(watches_, {}))
      for (const auto& [number, watching] : watches)
        if (const auto there = watching.watcher.lock()) there->OnEnd(ShuttingDown());
  });
  thread_.Flush();
}

absl::StatusOr<JobInfo> JobManager::Create(const JobSpec& spec) {
  FS_ASSIGN_OR_RETURN(JobInfo info, store_->Create(spec));
  spdlog::info("job id={} kind={} model={} state=queued cells={}", info.id.ToHex(), spec.kind, spec.model, spec.cells);
  ShowCounts();
  StartNext();
  return info;
}

absl::StatusOr<JobInfo> JobManager::CancelNow(const JobId& id, const std::string& principal) {
  FS_RETURN_IF_ERROR(store_->Get(id, principal).status());
  FS_RETURN_IF_ERROR(Change(id, JobState::kCancelled, absl::CancelledError("the job was cancelled")));
  Drop(id);
  Feed(id);
  StartNext();
  return store_->Get(id, principal);
}

absl::StatusOr<JobId> JobManager::DeleteNow(const JobId& id, const std::string& principal) {
  FS_RETURN_IF_ERROR(store_->Delete(id, principal));
  spdlog::info("job id={} state=deleted", id.ToHex());
  Drop(id);
  Feed(id);  // there is nothing more, which ends them
  ShowCounts();
  StartNext();
  return id;
}

void JobManager::StartNext() {
  if (!begun_ || suspended_) return;
  const absl::StatusOr<std::vector<JobInfo>> unfinished = store_->Unfinished();
  if (!unfinished.ok()) return spdlog::error("jobs cannot be read: {}", std::string(unfinished.status().message()));
  std::set<std::string> busy;
  for (const auto& [id, running] : running_) busy.insert(running.principal);
  for (const JobInfo& job : *unfinished) {
    if (running_.size() >= kMaxRunning) return;
    if (running_.contains(job.id) || !busy.insert(job.spec.principal).second) continue;
    StartJob(job);
  }
}

void JobManager::StartJob(const JobInfo& job) {
  absl::StatusOr<std::vector<std::string>> finished = store_->Read(job.id, job.spec.principal, 0, kEverything);
  if (!finished.ok()) {
    (void)Change(job.id, JobState::kFailed, finished.status());
    return Feed(job.id);
  }
  if (!Change(job.id, JobState::kRunning).ok()) return;
  running_.emplace(job.id, Running{job.spec.principal, job.next_sequence});
  runner_.Start(job, *std::move(finished), std::make_shared<Output>(*this, job.id));
}

void JobManager::Take(const JobId& id, const std::vector<Piece>& pieces) {
  const auto job = running_.find(id);
  if (job == running_.end() || job->second.unwanted) return;
  if (absl::Status status = store_->Append(id, job->second.next_sequence, pieces); !status.ok()) {
    (void)Change(id, JobState::kFailed, status);
    Drop(id);
    return Feed(id);
  }
  job->second.next_sequence += pieces.size();
  Feed(id);
}

void JobManager::Ended(const JobId& id, absl::Status status, const std::string& summary) {
  const auto job = running_.find(id);
  if (job == running_.end()) return;
  const Running running = job->second;
  running_.erase(job);
  bool again = false;
  if (!running.unwanted) {
    const absl::StatusOr<JobInfo> info = store_->Get(id, running.principal);
    if (status.ok() && info.ok() && info->done != info->spec.cells)
      status =
          absl::InternalError("the run ended with " + std::to_string(info->done) + " of " + std::to_string(info->spec.cells) + " cells");
    again = !status.ok() && (suspended_ || absl::IsUnavailable(status));
    if (status.ok()) {
      (void)Change(id, JobState::kDone, status, summary);
    } else if (again) {
      (void)Change(id, JobState::kQueued);
    } else {
      (void)Change(id, JobState::kFailed, status);
    }
    Feed(id);
  }
  if (again) return thread_.PostAfter(kTryAgain, [this] { StartNext(); });
  StartNext();
}

// What still comes of a running job is not wanted any more.
void JobManager::Drop(const JobId& id) {
  const auto job = running_.find(id);
  if (job == running_.end()) return;
  job->second.unwanted = true;
  runner_.Stop(id);
}

absl::Status JobManager::Change(const JobId& id, JobState state, const absl::Status& why, const std::string& summary) {
  absl::Status status = store_->SetState(id, state, why, summary);
  if (status.ok()) {
    // Without the message, which may quote a prompt.
    spdlog::info("job id={} state={} code={}", id.ToHex(), std::string(NameOf(state)), absl::StatusCodeToString(why.code()));
    ShowCounts();
  } else if (!absl::IsFailedPrecondition(status)) {
    spdlog::error("job id={} cannot be made {}: {}", id.ToHex(), std::string(NameOf(state)), std::string(status.message()));
  }
  return status;
}

void JobManager::Feed(const JobId& id) {
  const auto job = watches_.find(id);
  if (job == watches_.end()) return;
  for (auto watch = job->second.begin(); watch != job->second.end();)
    watch = watch->second.hungry && !FeedOne(id, watch->first, watch->second) ? job->second.erase(watch) : std::next(watch);
  if (job->second.empty()) watches_.erase(job);
}

void JobManager::More(const JobId& id, uint64_t watch) {
  if (const auto job = watches_.find(id); job != watches_.end()) {
    if (const auto watching = job->second.find(watch); watching != job->second.end()) watching->second.hungry = true;
    Feed(id);
  }
}

bool JobManager::FeedOne(const JobId& id, uint64_t number, Watching& watching) {
  const std::shared_ptr<JobWatcher> watcher = watching.watcher.lock();
  if (watcher == nullptr) return false;
  absl::StatusOr<JobInfo> info = store_->Get(id, watching.principal);
  absl::StatusOr<std::vector<std::string>> page = std::vector<std::string>();
  if (info.ok()) page = store_->Read(id, watching.principal, watching.next, kPageBytes);
  if (!info.ok() || !page.ok()) {
    watcher->OnEnd(info.ok() ? page.status() : info.status());
    return false;
  }
  watching.next += page->size();
  if (!std::exchange(watching.headed, true)) page->insert(page->begin(), std::move(info->spec.header));
  const bool ends = IsEnd(info->state) && watching.next >= info->next_sequence;
  if (ends && info->state == JobState::kDone) page->push_back(std::move(info->summary));
  if (!page->empty()) {
    watching.hungry = false;
    watcher->OnMessages(*std::move(page), [this, id, number] { thread_.Post([this, id, number] { More(id, number); }); });
  }
  if (ends) watcher->OnEnd(info->status);
  return !ends;
}

void JobManager::ShowCounts() {
  const auto counts = store_->Counts();
  if (!counts.ok()) return;
  for (const JobState state : kAllStates) metrics_.SetJobs(NameOf(state), (*counts)[static_cast<size_t>(state)]);
}

}  // namespace fluoroscope::jobs
