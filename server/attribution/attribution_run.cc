#include "attribution/attribution_run.h"

#include <algorithm>

#include "attribution/check.h"
#include "obs/metrics.h"

namespace fluoroscope::attribution {

using Clock = std::chrono::steady_clock;

AttributionRun::AttributionRun(Scoring scoring, api::SweepHeader header, std::vector<std::string> warnings,
                               std::shared_ptr<api::SweepSink> sink, obs::Metrics& metrics, Clock::time_point arrived)
    : scoring_(std::move(scoring)),
      header_(std::move(header)),
      warnings_(std::move(warnings)),
      sink_(std::move(sink)),
      metrics_(metrics),
      arrived_(arrived),
      mean_(scoring_.cells * header_.metrics.size()) {}

sched::Work::Progress AttributionRun::Step() {
  if (!started_) {
    started_ = true;
    queue_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
    sink_->Push(header_);
  }
  if (exact_ != nullptr) {
    if (exact_->Step() != Progress::kDone) return Progress::kMore;
    if (!exact_->status().ok()) {
      Abort(exact_->status());
      return Progress::kDone;
    }
    SendCheck();
    return Succeed();
  }
  const absl::StatusOr<bool> more = meter_.Step([this] { return StepPair(); });
  if (!more.ok()) {
    if (absl::IsResourceExhausted(more.status())) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
    Abort(more.status());
    return Progress::kDone;
  }
  if (*more) return Progress::kMore;
  if (!scoring_.verification) return Succeed();
  StartVerification();
  return Progress::kMore;
}

void AttributionRun::Abort(absl::Status why) {
  pair_.reset();
  exact_.reset();
  sink_->Finish(std::move(why));
}

bool AttributionRun::StepPair() {
  if (pair_ == nullptr) pair_ = scoring_.begin(next_pair_);
  if (pair_->Step()) return true;
  FinishPair();
  return ++next_pair_ < scoring_.pairs;
}

void AttributionRun::FinishPair() {
  api::SweepCells out;
  out.pair = static_cast<uint32_t>(next_pair_);
  out.cells.resize(scoring_.cells);
  for (size_t cell = 0; cell < out.cells.size(); ++cell) out.cells[cell] = static_cast<uint32_t>(cell);
  out.values = pair_->Scores();
  for (size_t i = 0; i < mean_.size(); ++i) mean_[i] += out.values[i] / static_cast<double>(scoring_.pairs);
  sink_->Push(pair_->reference());
  sink_->Push(std::move(out));
  tokens_ += pair_->tokens();
  pair_.reset();
}

void AttributionRun::StartVerification() {
  const Scoring::Verification& how = *scoring_.verification;
  exact_ = std::make_unique<sweep::ExactRun>(how.exact, scoring_.pairs, mean_, how.choice, header_, *sink_, metrics_);
}

void AttributionRun::SendCheck() {
  const size_t metrics = header_.metrics.size();
  const std::map<uint32_t, std::vector<double>> changes = exact_->cells().MeanChanges();
  api::AttributionCheck check;
  check.cells = exact_->chosen();
  for (size_t m = 0; m < metrics; ++m) {
    std::vector<double> estimates, exact;
    for (uint32_t cell : check.cells) {
      estimates.push_back(mean_[cell * metrics + m]);
      exact.push_back(changes.at(cell)[m]);
    }
    check.metrics.push_back(Compare(estimates, exact, scoring_.verification->choice.top, scoring_.verification->by_size));
  }
  sink_->Push(std::move(check));
}

sched::Work::Progress AttributionRun::Succeed() {
  api::SweepSummary summary{warnings_, queue_ms_, meter_.run_ms(), tokens_, meter_.peak_bytes()};
  if (exact_ != nullptr) {
    const api::SweepSummary& exact = exact_->cells().end;
    summary.run_ms += exact.run_ms;
    summary.tokens += exact.tokens;
    summary.peak_bytes = std::max(summary.peak_bytes, exact.peak_bytes);
  }
  sink_->Push(std::move(summary));
  sink_->Finish(absl::OkStatus());
  return Progress::kDone;
}

}  // namespace fluoroscope::attribution
