#include "sweep/fast_sweep_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "obs/metrics.h"

namespace fluoroscope::sweep {

using Clock = std::chrono::steady_clock;

FastSweepRun::FastSweepRun(Plan plan, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
                           obs::Metrics& metrics, Clock::time_point arrived)
    : plan_(std::move(plan)),
      header_(std::move(header)),
      warnings_(std::move(warnings)),
      sink_(std::move(sink)),
      metrics_(metrics),
      arrived_(arrived),
      making_(plan_.sweep.model) {}

sched::Work::Progress FastSweepRun::Step() {
  if (stage_ == Stage::kConvert) {
    if (const absl::Status room = Reserve(); !room.ok()) {
      metrics_.CountRejection(obs::Rejection::kOverBudget);
      Abort(room);
      return Progress::kDone;
    }
    const absl::StatusOr<bool> more = conversion_.Step([this] { return plan_.half->made == nullptr && making_.Step(); });
    if (!more.ok()) {
      if (absl::IsResourceExhausted(more.status())) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
      Abort(more.status());
      return Progress::kDone;
    }
    if (!*more) StartFast();
    return Progress::kMore;
  }
  if ((stage_ == Stage::kFast ? run_->Step() : exact_->Step()) != Progress::kDone) return Progress::kMore;
  const absl::Status& ended = stage_ == Stage::kFast ? fast_->status : exact_->status();
  if (!ended.ok()) {
    Abort(ended);
    return Progress::kDone;
  }
  if (stage_ == Stage::kFast) {
    StartExact();
    return Progress::kMore;
  }
  SendCheck();
  return Succeed();
}

void FastSweepRun::Abort(absl::Status why) {
  (void)making_.Take();  // its memory first, then its charge
  charge_.reset();
  run_.reset();
  exact_.reset();
  sink_->Finish(std::move(why));
}

absl::Status FastSweepRun::Reserve() {
  HalfModel& half = *plan_.half;
  if (half.made != nullptr || charge_ != nullptr || half.reserve == nullptr) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<const void>> charge = half.reserve();
  if (charge.ok()) charge_ = *std::move(charge);
  return charge.status();
}

void FastSweepRun::StartFast() {
  stage_ = Stage::kFast;
  SweepPlan fast = plan_.sweep;
  if (plan_.half->made == nullptr) {
    plan_.half->made = making_.Take();
    plan_.half->charge = std::move(charge_);
  }
  (void)making_.Take();  // where another run's twin is there: what was made of ours, and then its charge
  charge_.reset();
  fast.model = plan_.half->made;
  fast_ = std::make_shared<CellRecorder>(*sink_, CellRecorder::As::kCells);
  run_ = std::make_unique<SweepRun>(std::move(fast), header_, std::vector<std::string>(), fast_, metrics_, arrived_);
}

void FastSweepRun::StartExact() {
  stage_ = Stage::kExact;
  const size_t metrics = header_.metrics.size();
  std::vector<double> changes(plan_.sweep.grid.cells() * metrics);
  for (const auto& [cell, of_cell] : fast_->MeanChanges())
    std::copy(of_cell.begin(), of_cell.end(), changes.begin() + static_cast<ptrdiff_t>(cell * metrics));
  run_.reset();
  const auto plan = [this](FinishedCells finished) {
    SweepPlan exact = plan_.sweep;
    exact.finished = std::move(finished);
    Pieces pieces = PiecesOf(std::move(exact));
    pieces.fits = header_.cost.peak_bytes;  // which is of whole grids: of chosen cells, many more pairs would go into one piece
    return pieces;
  };
  exact_ = std::make_unique<ExactRun>(plan, plan_.sweep.pairs.size(), changes, plan_.check, header_, *sink_, metrics_);
}

void FastSweepRun::SendCheck() {
  api::PrecisionCheck check;
  const CellRecorder& exact = exact_->cells();
  check.cells = exact_->chosen();
  for (size_t m = 0; m < header_.metrics.size(); ++m) {
    double difference = 0, change = 0;
    for (const auto& [pair, cells] : exact.values)
      for (const auto& [cell, values] : cells) {
        difference = std::max(difference, std::abs(values[m] - fast_->values.at(pair).at(cell)[m]));
        change = std::max(change, std::abs(values[m] - exact.base.at(pair)[m]));
      }
    check.largest_difference.push_back(difference);
    check.largest_change.push_back(change);
  }
  check.run_ms = exact.end.run_ms;
  sink_->Push(std::move(check));
}

sched::Work::Progress FastSweepRun::Succeed() {
  const api::SweepSummary& exact = exact_->cells().end;
  sink_->Push(api::SweepSummary{warnings_, fast_->end.queue_ms, conversion_.run_ms() + fast_->end.run_ms + exact.run_ms,
                                fast_->end.tokens + exact.tokens,
                                std::max(conversion_.peak_bytes() + fast_->end.peak_bytes, exact.peak_bytes)});
  sink_->Finish(absl::OkStatus());
  return Progress::kDone;
}

}  // namespace fluoroscope::sweep
