#include "run/forward_run.h"

#include "obs/metrics.h"

namespace fluoroscope::run {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kUnchargedBytes = 1 << 20;

}  // namespace

ForwardRun::ForwardRun(RunPlan plan, api::ForwardHeader header, std::shared_ptr<api::ForwardSink> sink, obs::Metrics& metrics,
                       Clock::time_point arrived, std::unique_ptr<CaptureKeeper> keeper)
    : plan_(std::move(plan)),
      header_(std::move(header)),
      sink_(std::move(sink)),
      metrics_(metrics),
      out_(sink_),
      keeper_(std::move(keeper)),
      run_(std::make_unique<PlanRun>(plan_, header_.provenance.model, out_, metrics)),
      arrived_(arrived) {}

sched::Work::Progress ForwardRun::Step() {
  if (succeeded_) return Progress::kDone;  // resumed because everything has been sent
  if (!started_) {
    started_ = true;
    queue_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
    out_.Push(header_);
  }
  const absl::StatusOr<bool> more = meter_.Step([this] { return run_->Step(); });
  if (!more.ok()) {
    if (absl::IsResourceExhausted(more.status())) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
    Abort(more.status());
    return Progress::kDone;
  }
  if (!*more) {
    Succeed();
    // Unsent results stay charged: the work ends when the sink has sent them. Small ones are not worth the wait.
    return out_.captured_bytes() < kUnchargedBytes ? Progress::kDone : Progress::kBlocked;
  }
  return out_.TakeWantsMore() ? Progress::kMore : Progress::kBlocked;
}

void ForwardRun::Succeed() {
  succeeded_ = true;
  api::ForwardSummary summary;
  summary.tokens = run_->tokens();
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

void ForwardRun::Abort(absl::Status why) {
  run_.reset();
  out_.kept_captures().clear();  // their memory first, then their charge
  keeper_.reset();
  sink_->Finish(std::move(why));
}

}  // namespace fluoroscope::run
