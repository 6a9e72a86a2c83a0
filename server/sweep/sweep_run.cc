#include "sweep/sweep_run.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "obs/metrics.h"

namespace fluoroscope::sweep {

using Clock = std::chrono::steady_clock;

SweepRun::SweepRun(SweepPlan plan, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
                   obs::Metrics& metrics, Clock::time_point arrived)
    : SweepRun(PiecesOf(std::move(plan)), std::move(header), std::move(warnings), std::move(sink), metrics, arrived) {}

SweepRun::SweepRun(Pieces pieces, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
                   obs::Metrics& metrics, Clock::time_point arrived)
    : pieces_(std::move(pieces)),
      header_(std::move(header)),
      warnings_(std::move(warnings)),
      sink_(std::move(sink)),
      metrics_(metrics),
      arrived_(arrived) {
  for (size_t i = 0; i < header_.metrics.size(); ++i) metric_index_[header_.metrics[i]] = i;
}

sched::Work::Progress SweepRun::Step() {
  if (!started_) {
    started_ = true;
    next_cell_ = pieces_.Next(0);
    queue_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
    sink_->Push(header_);
  }
  const absl::StatusOr<bool> more = meter_.Step([this] { return StepPiece(); });
  if (!more.ok()) {
    if (absl::IsResourceExhausted(more.status())) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
    Abort(more.status());
    return Progress::kDone;
  }
  Send();
  if (*more) return Progress::kMore;
  Succeed();
  return Progress::kDone;
}

bool SweepRun::StepPiece() {
  if (run_ == nullptr) {
    if (next_cell_ >= pieces_.cells) return false;  // an earlier run has finished everything
    StartPiece();
  }
  const bool more = run_->Step();
  Harvest();
  if (more) return true;
  tokens_ += run_->tokens();
  run_.reset();
  next_cell_ = pieces_.Next(piece_.end);
  return next_cell_ < pieces_.cells;
}

void SweepRun::StartPiece() {
  piece_ = pieces_.Plan(next_cell_, most_rows_);
  // Where pieces are cut to fit, the next one is not planned much larger than the last: planning takes time too.
  if (pieces_.fits != std::numeric_limits<uint64_t>::max()) most_rows_ = std::min(kMaxPieceRows, 2 * piece_.rows.size());
  values_.clear();
  base_.clear();
  source_.clear();
  sourced_.clear();
  for (const Piece::Row& row : piece_.rows)
    if (row.is == Piece::Row::Is::kSource) sourced_.insert(row.pair);
  for (const run::RowPlan& row : piece_.plan.rows) values_.push_back({std::vector<double>(header_.metrics.size()), row.metrics.size()});
  out_ = std::make_unique<run::ResultWriter>(nullptr);  // a sweep's rows have metrics only
  run_ = std::make_unique<run::PlanRun>(piece_.plan, header_.provenance.model, *out_, metrics_);
}

void SweepRun::Harvest() {
  for (const api::MetricValue& value : std::exchange(out_->metrics(), {})) {
    Values& row = values_[value.row];
    row.values[metric_index_.at(value.name)] = value.value;
    if (--row.missing == 0) Finished(value.row);
  }
}

void SweepRun::Finished(size_t index) {
  const Piece::Row& row = piece_.rows[index];
  std::vector<double>& values = values_[index].values;
  switch (row.is) {
    case Piece::Row::Is::kBase:
      base_[row.pair] = values;
      break;
    case Piece::Row::Is::kSource:
      source_[row.pair] = values;
      break;
    case Piece::Row::Is::kLender:
      return;
    case Piece::Row::Is::kCell: {
      // A metric in front of the change has the base run's value; base runs end in an earlier wave.
      const std::vector<double>& base = base_.at(row.pair);
      const run::RowPlan& plan = piece_.plan.rows[index];
      if (plan.metrics.size() < values.size()) {
        std::vector<double> all = base;
        for (const run::MetricPlan& metric : plan.metrics) all[metric_index_.at(metric.name)] = values[metric_index_.at(metric.name)];
        values = std::move(all);
      }
      Emit(row, values);
      return;
    }
  }
  if (!base_.contains(row.pair) || source_.contains(row.pair) != sourced_.contains(row.pair)) return;
  // A pair whose cells are in several pieces is reported once. Its references go first: whoever has one of its cells has them.
  if (reported_.insert(row.pair).second) sink_->Push(api::SweepReference{row.pair, base_[row.pair], source_[row.pair]});
  const std::vector<double> nothing(header_.metrics.size(), std::numeric_limits<double>::quiet_NaN());
  for (const Piece::Row& cell : piece_.filled)
    if (cell.pair == row.pair) Emit(cell, cell.no_path ? nothing : base_[row.pair]);
}

// Twins go together, so that whoever keeps finished cells has both or neither.
void SweepRun::Emit(const Piece::Row& cell, const std::vector<double>& values) {
  api::SweepCells& cells = done_[cell.pair];
  cells.pair = cell.pair;
  for (const std::optional<uint32_t>& number : {std::optional(cell.cell), cell.twin}) {
    if (!number) continue;
    cells.cells.push_back(*number);
    cells.values.insert(cells.values.end(), values.begin(), values.end());
  }
}

// Nothing is held back from the reader: a sweep's results are a few numbers a cell, and the number of cells is limited.
void SweepRun::Send() {
  for (auto& [pair, cells] : std::exchange(done_, {})) sink_->Push(std::move(cells));
}

void SweepRun::Succeed() {
  sink_->Push(api::SweepSummary{warnings_, queue_ms_, meter_.run_ms(), tokens_, meter_.peak_bytes()});
  sink_->Finish(absl::OkStatus());
}

void SweepRun::Abort(absl::Status why) {
  run_.reset();
  sink_->Finish(std::move(why));
}

}  // namespace fluoroscope::sweep
