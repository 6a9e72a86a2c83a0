#include "generate/prompt_run.h"

#include <utility>

namespace fluoroscope::generate {

PromptRun::PromptRun(const run::RunPlan& plan, const std::string& model_name, run::ResultWriter& out, obs::Metrics& metrics,
                     run::StepMeter& meter, std::shared_ptr<run::BatchPool> pool, std::function<void()> on_begin)
    : plan_(plan), run_(plan, model_name, out, metrics), out_(out), meter_(meter), pool_(std::move(pool)), on_begin_(std::move(on_begin)) {}

PromptRun::~PromptRun() {
  if (pooled_) pool_->Leave(*this);
}

void PromptRun::Enter() {
  if (pooled_ || !failed_.ok() || pool_ == nullptr || plan_.isolated || apart_ || !run_.between()) return;
  if (!run::BatchPool::Takes(run_.next_lines())) return;
  std::vector<size_t> rows;
  const absl::StatusOr<bool> taken = meter_.Step([&] {  // behind the exception border: the first batch takes the values of handles with it
    rows = run_.TakeBatch();
    return false;
  });
  if (!taken.ok()) {
    failed_ = taken.status();
    return;
  }
  pooled_ = true;
  pool_->Enter(run_.lane(), std::move(rows), *this, meter_);
}

absl::Status PromptRun::Step() {
  Enter();
  if (pooled_) {
    pool_->Step();
    return failed_;
  }
  if (!failed_.ok()) return failed_;
  // Up to the end of a batch, where the next one may be for the pool.
  const absl::StatusOr<bool> more = meter_.Step([this] { return run_.Step() && !run_.between() && out_.wants_more(); });
  if (!more.ok()) return failed_ = more.status();
  if (run_.done() || run_.between()) apart_ = false;
  return absl::OkStatus();
}

void PromptRun::OnBatchDone() {
  pooled_ = false;
  if (out_.wants_more()) Enter();
}

void PromptRun::OnBatchFailed(absl::Status why) {
  pooled_ = false;
  failed_ = std::move(why);
}

void PromptRun::OnApart(std::vector<size_t> rows, std::unique_ptr<run::BatchRun> begun) {
  pooled_ = false;
  apart_ = true;
  run_.GiveBack(std::move(rows), std::move(begun));
}

}  // namespace fluoroscope::generate
