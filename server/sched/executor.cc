#include "sched/executor.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "obs/metrics.h"
#include "sched/ledger.h"
#include "sched/refusals.h"
#include "sched/running_set.h"
#include "sched/work_queue.h"

namespace fluoroscope::sched {
namespace {

constexpr std::chrono::milliseconds kTurn{20};  // for so long a work has its turn that goes on (kGoOn)
constexpr uint64_t kTurnsPerBudget = 16;        // a work that needs the whole budget costs its principal this many turns
constexpr double kFlopsPerTurn = 5e10;          // of a device of two cores this is some 0.2 s

Ledger::Limits LimitsOf(const Executor::Options& options) {
  return {.in_flight = options.max_in_flight_per_principal,
          .running = options.max_running_per_principal,
          .bytes = options.bytes_per_principal,
          .batch_running = std::max<size_t>(options.max_running / 4, 1),
          .batch_bytes = options.budget_bytes / 2};
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Abort must not throw; one that does all the same must not take the other requests, or a reactor thread, with it.
void AbortQuietly(Work& work, absl::Status why) {
  try {
    work.Abort(std::move(why));
  } catch (...) {  // NOLINT(bugprone-empty-catch): the work is over either way
  }
}

// The label under which a work is counted that the executor gives up.
obs::Rejection ReasonOf(const absl::Status& why) {
  if (absl::IsCancelled(why)) return obs::Rejection::kCancelled;
  return absl::IsDeadlineExceeded(why) ? obs::Rejection::kDeadline : obs::Rejection::kDraining;
}

// When the call into a work that is going on began, for Healthy. Written by the executor's thread, read by any.
class CallClock {
 public:
  void Begin(Clock::time_point now) { began_.store(now.time_since_epoch().count(), std::memory_order_relaxed); }
  void End() { began_.store(kIdle, std::memory_order_relaxed); }
  Clock::duration Running() const {
    const Clock::rep began = began_.load(std::memory_order_relaxed);
    return began == kIdle ? Clock::duration::zero() : Clock::now().time_since_epoch() - Clock::duration(began);
  }

 private:
  static constexpr Clock::rep kIdle = std::numeric_limits<Clock::rep>::min();
  std::atomic<Clock::rep> began_ = kIdle;
};

}  // namespace

class Executor::Impl {
 public:
  Impl(const Options& options, obs::Metrics& metrics)
      : options_(options), metrics_(metrics), waiting_(options.budget_bytes / kTurnsPerBudget, kFlopsPerTurn), ledger_(LimitsOf(options)) {
    metrics_.SetBudgetBytes(options_.budget_bytes);
    metrics_.SetAdmittedBytes(0);
    metrics_.SetQueueDepth(0);
    thread_ = std::jthread([this] { Loop(); });
  }

  void Submit(std::shared_ptr<Work> work, WorkInfo info) {
    std::optional<Refusal> refusal = Enqueue(work, info);
    if (!refusal) return;
    metrics_.CountRejection(refusal->reason);
    AbortQuietly(*work, std::move(refusal->why));
  }

  void Resume(const Work* work) {
    const std::lock_guard lock(mutex_);
    resumed_.insert(work);
    Wake();
  }

  absl::Status Reserve(uint64_t bytes) {
    std::unique_lock lock(mutex_);
    const uint64_t taken = reserved_ + std::max(admitted_, waiting_.LargestBytes());
    if (taken > options_.budget_bytes || bytes > options_.budget_bytes - taken)
      return NoRoom(bytes, options_.budget_bytes - std::min(taken, options_.budget_bytes), options_.budget_bytes);
    reserved_ += bytes;
    ReclaimSpare(lock);
    return absl::OkStatus();
  }

  void Release(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    reserved_ -= bytes;
    Wake();  // waiting work may fit now
  }

  bool ReserveSpare(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    const uint64_t taken = reserved_ + admitted_ + spare_;
    if (taken > options_.budget_bytes || bytes > options_.budget_bytes - taken) return false;
    spare_ += bytes;
    return true;
  }

  void ReleaseSpare(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    spare_ -= bytes;
  }

  void Poke() {
    const std::lock_guard lock(mutex_);
    Wake();
  }

  void Drain(std::chrono::milliseconds grace) {
    std::unique_lock lock(mutex_);
    const Clock::time_point now = Clock::now();
    // Compared as a difference, in milliseconds: `now + grace` may be more than a time point can hold.
    const auto longest = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::time_point::max() - now);
    const Clock::time_point until = grace < longest ? now + grace : Clock::time_point::max();
    draining_ = true;
    abort_all_at_ = std::min(abort_all_at_, until);
    Wake();
    if (std::this_thread::get_id() == thread_.get_id()) return;
    idle_.wait(lock, [this] { return waiting_.size() + held_ == 0; });
  }

  Status GetStatus() const {
    Status status;
    status.uptime = Clock::now() - started_;
    status.busy = Clock::duration(busy_.load(std::memory_order_relaxed));
    const std::lock_guard lock(mutex_);
    status.finished = roster_.finished();
    status.works = roster_.works();
    return status;
  }

  bool Healthy() const { return call_clock_.Running() <= options_.stuck_after; }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      draining_ = stopping_ = true;
      abort_all_at_ = Clock::time_point::min();
      Wake();
    }
    thread_.join();
  }

 private:
  struct Refusal {
    obs::Rejection reason;
    absl::Status why;
  };
  struct Ending {
    QueuedWork work;
    uint64_t charged_bytes;
    absl::Status why;
  };

  // Any thread -----------------------------------------------------------------------------------------------------------------------

  void Wake() {  // with mutex_ held
    news_ = true;
    wake_.notify_one();
  }

  // Has spare bytes given back that what was taken just now needs. Lets go of the lock meanwhile.
  void ReclaimSpare(std::unique_lock<std::mutex>& lock) {
    const uint64_t taken = reserved_ + admitted_ + spare_;
    if (spare_ == 0 || taken <= options_.budget_bytes) return;
    lock.unlock();
    options_.reclaim_spare(taken - options_.budget_bytes);
    lock.lock();
  }

  // Takes the work when there is a place for it; else leaves it alone and says why not.
  std::optional<Refusal> Enqueue(std::shared_ptr<Work>& work, WorkInfo& info) {
    const Clock::time_point now = Clock::now();
    const std::lock_guard lock(mutex_);
    if (draining_) return Refusal{obs::Rejection::kDraining, Draining()};
    if (absl::Status wanted = StillWanted(info, now, "being submitted"); !wanted.ok()) return Refusal{ReasonOf(wanted), std::move(wanted)};
    if (info.peak_bytes > options_.budget_bytes) {
      return Refusal{obs::Rejection::kOverBudget, OverBudget(info.peak_bytes, options_.budget_bytes)};
    }
    if (info.peak_bytes > options_.budget_bytes - reserved_) {
      return Refusal{obs::Rejection::kOverBudget, OverReserved(info.peak_bytes, options_.budget_bytes, reserved_)};
    }
    if (waiting_.size() >= options_.max_waiting) {
      return Refusal{obs::Rejection::kQueueFull, QueueFull(waiting_.size(), options_.max_waiting)};
    }
    if (absl::Status limit = ledger_.MayEnter(info); !limit.ok()) return Refusal{obs::Rejection::kPrincipalLimit, std::move(limit)};
    ledger_.Enter(info);
    QueuedWork queued{std::move(work), std::move(info), now};
    roster_.Enter(queued);
    waiting_.Push(std::move(queued));
    metrics_.SetQueueDepth(waiting_.size());  // under the lock, so that the gauge cannot end on an old value
    Wake();
    return std::nullopt;
  }

  // The executor's thread ------------------------------------------------------------------------------------------------------------

  void Loop() {
    do {
      End(CollectEndings());
      Admit();
    } while (running_.runnable() > 0 ? (StepNext(), true) : WaitForNews());
  }

  // Hears the news, and takes out of the queue and of the running works all that nobody wants any more, or that a drain has to end.
  std::vector<Ending> CollectEndings() {
    const Clock::time_point now = Clock::now();
    std::vector<Ending> endings;
    std::unordered_set<const Work*> resumed;
    bool abort_all = false;
    const auto ended = [&](const QueuedWork& work) { return abort_all || !StillWanted(work.info, now, "").ok(); };
    const auto add = [&](QueuedWork work, uint64_t charged_bytes, std::string_view state) {
      absl::Status why = StillWanted(work.info, now, state);
      endings.push_back({std::move(work), charged_bytes, why.ok() ? Draining() : std::move(why)});
    };
    {
      const std::lock_guard lock(mutex_);
      news_ = false;
      abort_all = now >= abort_all_at_;
      resumed.swap(resumed_);
      for (QueuedWork& work : waiting_.Remove(ended)) add(std::move(work), 0, "waiting in the queue");
      held_ += endings.size();
      metrics_.SetQueueDepth(waiting_.size());
    }
    running_.Unpark(resumed);
    for (QueuedWork& work : running_.Remove(ended)) {
      const uint64_t charged_bytes = work.info.peak_bytes;
      add(std::move(work), charged_bytes, "running");
    }
    return endings;
  }

  void End(std::vector<Ending> endings) {
    for (Ending& ending : endings) {
      metrics_.CountRejection(ReasonOf(ending.why));
      call_clock_.Begin(Clock::now());
      AbortQuietly(*ending.work.work, std::move(ending.why));
      call_clock_.End();
      LetGo(std::move(ending.work), ending.charged_bytes);
    }
  }

  // The end of a work: its memory first, then its charge, and only then may Drain return.
  void LetGo(QueuedWork work, uint64_t charged_bytes) {
    const Work* const was = work.work.get();
    work.work.reset();
    running_.Release(charged_bytes);
    metrics_.SetAdmittedBytes(running_.charged_bytes());
    const std::lock_guard lock(mutex_);
    ledger_.Leave(work);
    roster_.Leave(was);
    admitted_ -= charged_bytes;
    --held_;
    if (waiting_.size() + held_ == 0) idle_.notify_all();
  }

  void Admit() {
    while (running_.runnable() < std::max<size_t>(options_.max_running, 1)) {
      const uint64_t charged = running_.charged_bytes();
      std::optional<QueuedWork> next;
      {
        std::unique_lock lock(mutex_);
        const uint64_t taken = std::min(options_.budget_bytes, charged + reserved_);
        next = waiting_.PopNext(options_.budget_bytes - taken, charged - running_.parked_bytes(),
                                [this](const WorkInfo& info) { return ledger_.MayRun(info, reserved_); });
        if (!next) return;
        next->admitted = true;
        ledger_.Run(next->info);
        roster_.Run(next->work.get());
        ++held_;
        admitted_ += next->info.peak_bytes;
        metrics_.SetQueueDepth(waiting_.size());
        ReclaimSpare(lock);
      }
      metrics_.ObserveQueueWait(Seconds(Clock::now() - next->arrived));
      Work& work = *next->work;
      running_.Admit(*std::move(next));
      work.Admitted();
      metrics_.SetAdmittedBytes(running_.charged_bytes());
    }
  }

  void StepNext() {
    Work& work = *running_.Front().work;
    std::optional<std::string> thrown;
    Work::Progress progress = Work::Progress::kDone;
    const Clock::time_point began = Clock::now();
    call_clock_.Begin(began);
    try {
      progress = work.Step();
    } catch (const std::exception& error) {
      thrown = error.what();
    } catch (...) {
      thrown = "an unknown exception";
    }
    if (thrown) AbortQuietly(work, StepThrew(*thrown));  // and let go like one that is done
    call_clock_.End();
    const Clock::duration took = Clock::now() - began;
    busy_.fetch_add(took.count(), std::memory_order_relaxed);
    metrics_.AddExecutorBusy(Seconds(took));
    switch (progress) {
      case Work::Progress::kGoOn:
        if ((this_turn_ += took) < kTurn) return;
        [[fallthrough]];
      case Work::Progress::kMore:
        running_.EndTurn();
        break;
      case Work::Progress::kBlocked:
        running_.Park();  // a Resume since the step began is in resumed_ and is heard after this: it is not lost
        break;
      case Work::Progress::kDone: {
        QueuedWork done = running_.TakeFront();
        const uint64_t charged_bytes = done.info.peak_bytes;
        LetGo(std::move(done), charged_bytes);
        break;
      }
    }
    this_turn_ = {};
  }

  // Sleeps until something is to be looked at. False when there is nothing left to do, ever.
  bool WaitForNews() {
    std::unique_lock lock(mutex_);
    const bool idle = waiting_.size() + held_ == 0;
    if (idle && stopping_) return false;
    Clock::time_point until = std::min(waiting_.NextDeadline(), running_.NextDeadline());
    if (!idle) until = std::min(until, abort_all_at_);
    const auto news = [this] { return news_; };
    if (until == Clock::time_point::max()) {  // a wait "until" the end of time overflows inside some libraries
      wake_.wait(lock, news);
    } else {
      wake_.wait_until(lock, until, news);
    }
    return true;
  }

  const Options options_;
  obs::Metrics& metrics_;
  CallClock call_clock_;
  Clock::duration this_turn_{};  // of steps after which a work goes on
  const Clock::time_point started_ = Clock::now();
  std::atomic<Clock::rep> busy_ = 0;

  mutable std::mutex mutex_;      // guards from here to held_
  std::condition_variable wake_;  // for the executor's thread: news_
  std::condition_variable idle_;  // for Drain: nothing waits and nothing is held
  WorkQueue waiting_;
  Ledger ledger_;
  Roster roster_;
  std::unordered_set<const Work*> resumed_;  // not yet heard
  bool news_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  Clock::time_point abort_all_at_ = Clock::time_point::max();
  uint64_t reserved_ = 0;  // by others than works
  uint64_t spare_ = 0;     // of what is left: held until somebody needs it
  uint64_t admitted_ = 0;  // running_'s charge, for other threads
  size_t held_ = 0;        // works that the executor's thread has taken from waiting_ and not yet let go

  RunningSet running_;  // the executor's thread's own, as long as it lives
  std::jthread thread_;
};

Executor::Executor(const Options& options, obs::Metrics& metrics) : impl_(std::make_unique<Impl>(options, metrics)) {}

// The thread ends while impl_ can still be reached: what is aborted now may call Resume or Submit.
Executor::~Executor() { impl_->Stop(); }

void Executor::Submit(std::shared_ptr<Work> work, WorkInfo info) { impl_->Submit(std::move(work), std::move(info)); }
absl::Status Executor::Reserve(uint64_t bytes) { return impl_->Reserve(bytes); }
void Executor::Release(uint64_t bytes) { impl_->Release(bytes); }
bool Executor::ReserveSpare(uint64_t bytes) { return impl_->ReserveSpare(bytes); }
void Executor::ReleaseSpare(uint64_t bytes) { impl_->ReleaseSpare(bytes); }
void Executor::Resume(const Work* work) { impl_->Resume(work); }
void Executor::Poke() { impl_->Poke(); }
void Executor::Drain(std::chrono::milliseconds grace) { impl_->Drain(grace); }
Executor::Status Executor::GetStatus() const { return impl_->GetStatus(); }
bool Executor::Healthy() const { return impl_->Healthy(); }

}  // namespace fluoroscope::sched
