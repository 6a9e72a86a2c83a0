#include "run/forward_run.h"

#include <utility>

#include "obs/metrics.h"

namespace fluoroscope::run {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kUnchargedBytes = 1 << 20;
constexpr std::chrono::milliseconds kHeaderWaits{50};

}  // namespace

ForwardRun::ForwardRun(RunPlan plan, api::ForwardHeader header, std::shared_ptr<api::ForwardSink> sink, obs::Metrics& metrics,
                       Clock::time_point arrived, std::shared_ptr<BatchPool> pool, std::unique_ptr<CaptureKeeper> keeper)
    : plan_(std::move(plan)),
      header_(std::move(header)),
      sink_(std::move(sink)),
      metrics_(metrics),
      out_(sink_),
      keeper_(std::move(keeper)),
      run_(std::make_unique<PlanRun>(plan_, header_.provenance.model, out_, metrics)),
      gradients_(std::make_unique<CapturedGradients>(run_->lane())),
      meter_(out_.released()),
      pool_(std::move(pool)),
      arrived_(arrived) {}

bool ForwardRun::EnterPool() {
  if (pool_ == nullptr || plan_.isolated || apart_ || !run_->between() || !run_->next_pools()) return false;
  std::vector<size_t> rows;
  const absl::StatusOr<bool> taken = meter_.Step([&] {  // behind the exception border: the first batch takes the values of handles with it
    rows = run_->TakeBatch();
    return false;
  });
  if (!taken.ok()) {
    Fail(taken.status());
    return true;
  }
  pooled_ = true;
  pool_->Enter(run_->lane(), std::move(rows), *this, meter_);
  return true;
}

bool ForwardRun::ReaderWaits() {
  if (!out_.wants_more()) {
    // That it drained may have been decided before the last Push. It tells again when it wants more.
    if (!drained_.exchange(false) || !sink_->WantsMore()) return false;
    (void)out_.TakeWantsMore();
  }
  return true;
}

sched::Work::Progress ForwardRun::Step() {
  const Progress progress = StepOnce();
  if (started_ && !ended_ && Clock::now() - began_ > kHeaderWaits) out_.SendHeader();
  return progress;
}

sched::Work::Progress ForwardRun::StepOnce() {
  if (ended_) return Ended();
  if (pooled_) {
    const bool looks_up = pool_->Step();
    if (ended_) return Ended();
    if (pooled_) return looks_up ? Progress::kGoOn : Progress::kMore;
  }
  if (!ReaderWaits()) return Progress::kBlocked;
  if (EnterPool()) return ended_ ? Ended() : Progress::kMore;
  Start();
  const absl::StatusOr<bool> more = meter_.Step([this] { return StepOwn(); });
  if (!more.ok()) {
    Fail(more.status());
    return Ended();
  }
  if (run_->done() && gradients_->done()) {
    Succeed();
    return Ended();
  }
  if (run_->between()) apart_ = false;
  return out_.wants_more() || drained_ ? Progress::kMore : Progress::kBlocked;
}

bool ForwardRun::StepOwn() {
  // The next batch may be for the pool. After each piece the sink is asked: what a run holds unsent is bounded by that (unsent.h).
  if (!run_->done()) return run_->Step() && !run_->between() && out_.wants_more();
  if (!gradients_->done()) gradients_->Step();
  return !gradients_->done() && out_.wants_more();
}

void ForwardRun::OnBatchDone() {
  pooled_ = false;
  if (run_->done() && gradients_->done()) {
    Succeed();
  } else if (out_.wants_more()) {
    (void)EnterPool();
  }
}

void ForwardRun::OnApart(std::vector<size_t> rows, std::unique_ptr<BatchRun> begun) {
  pooled_ = false;
  apart_ = true;
  run_->GiveBack(std::move(rows), std::move(begun));
}

void ForwardRun::Start() {
  if (started_) return;
  started_ = true;
  began_ = Clock::now();
  queue_ms_ = std::chrono::duration<double, std::milli>(began_ - arrived_).count();
  out_.Begin(std::move(header_));
}

// Unsent results stay charged: the work ends when the sink has sent them. Small ones are not worth the wait. To be stepped again, or told
// that the sink has drained, does not mean that it has: the transport may decide to resume below half of the buffer, this run's last step
// may push more and finish, and only then the decision arrives, or an executor hears it that parked this run a moment ago. So the sink is
// asked. It resumes once more when its answer changes.
sched::Work::Progress ForwardRun::Ended() const {
  return failed_ || out_.captured_bytes() < kUnchargedBytes || sink_->AllSent() ? Progress::kDone : Progress::kBlocked;
}

void ForwardRun::Succeed() {
  ended_ = true;
  api::ForwardSummary summary;
  summary.tokens = run_->tokens() + gradients_->tokens();
  gradients_.reset();
  run_.reset();
  if (keeper_ != nullptr)
    for (api::Handle& handle : keeper_->Keep(std::move(out_.kept_captures()))) out_.Push(std::move(handle));
  keeper_.reset();
  metrics_.AddCapturedBytes(out_.captured_bytes());
  summary.metrics = std::move(out_.metrics());
  summary.queue_ms = queue_ms_;
  summary.run_ms = meter_.run_ms();
  summary.peak_bytes = meter_.peak_bytes();
  summary.warnings = plan_.warnings;
  out_.Push(std::move(summary));
  sink_->Finish(absl::OkStatus());
}

void ForwardRun::Fail(absl::Status why) {
  if (absl::IsResourceExhausted(why)) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
  pooled_ = false;
  ended_ = failed_ = true;
  LetGo();
  sink_->Finish(std::move(why));
}

void ForwardRun::LetGo() {
  gradients_.reset();
  run_.reset();
  out_.kept_captures().clear();  // their memory first, then their charge
  keeper_.reset();
}

void ForwardRun::Abort(absl::Status why) {
  if (pooled_) pool_->Leave(*this);  // else it has no rows there, and this may be another thread
  pooled_ = false;
  LetGo();
  sink_->Finish(std::move(why));
}

}  // namespace fluoroscope::run
