#include "run/logits_run.h"

#include <algorithm>

#include "model/forward.h"
#include "model/largest.h"
#include "model/log_sum.h"

namespace fluoroscope::run {

LogitsRun::LogitsRun(const model::Model& model, const LaneRows& rows, model::PackedRows live, at::Tensor normalized)
    : model_(model), rows_(rows), live_(std::move(live)), normalized_(std::move(normalized)) {
  metrics_.emplace(model_, rows_, live_);
  for (const model::RowSpan& span : live_.rows()) {
    const RowPlan& row = *Row(span.slot).plan;
    if (!row.logits || !row.logits->columns.empty()) continue;
    const size_t step = static_cast<size_t>(kPositionsPerStep);
    for (size_t first = 0; first < row.logits->positions.size(); first += step)
      pieces_.push_back({span.slot, first, std::min(step, row.logits->positions.size() - first)});
  }
}

bool LogitsRun::Step() {
  if (!metrics_->done()) {
    metrics_->Step(normalized_);
    return Left();
  }
  if (next_row_ < live_.rows().size()) {
    const model::RowSpan& span = live_.rows()[next_row_++];
    const LaneRow& row = Row(span.slot);
    if (row.plan->logits && !row.plan->logits->columns.empty()) Columns(row, span);
    return Left();
  }
  std::vector<Piece> step;
  size_t positions = 0;
  while (!pieces_.empty() && (step.empty() || positions + pieces_.front().count <= static_cast<size_t>(kPositionsPerStep))) {
    positions += pieces_.front().count;
    step.push_back(pieces_.front());
    pieces_.pop_front();
  }
  if (!step.empty()) Unembed(step);
  return !pieces_.empty();
}

bool LogitsRun::Remove(const Lane& lane) {
  std::vector<model::RowSpan> staying;
  size_t next_row = 0;
  for (size_t i = 0; i < live_.rows().size(); ++i) {
    const model::RowSpan& span = live_.rows()[i];
    if (Row(span.slot).lane == &lane) continue;
    if (i < next_row_) ++next_row;
    staying.push_back(span);
  }
  next_row_ = next_row;
  const bool was_unfinished = !pieces_.empty() && pieces_.front().first > 0;
  const bool front_leaves = !pieces_.empty() && Row(pieces_.front().slot).lane == &lane;
  if (was_unfinished && front_leaves) {
    logits_.Forget();
    for (JoinedLines& part : top_) part.Forget();
  }
  std::erase_if(pieces_, [&](const Piece& piece) { return Row(piece.slot).lane == &lane; });
  model::PackedRows packed(std::move(staying));
  if (packed.tokens() == 0) return false;
  normalized_ = model::TakeLines(normalized_, live_.LinesOf(packed, model_.device));
  live_ = std::move(packed);
  if (!metrics_->done()) metrics_.emplace(model_, rows_, live_);  // they are handed out all at once, at their end
  return Left();
}

at::Tensor LogitsRun::Lines(const model::RowSpan& span, const std::vector<int64_t>& positions) const {
  std::vector<int64_t> lines;
  for (int64_t position : positions) lines.push_back(span.LineOf(position));
  return model::TakeLines(normalized_, model::IndexTensor(lines, model_.device));
}

void LogitsRun::Columns(const LaneRow& row, const model::RowSpan& span) {
  const LogitsPlan& logits = *row.plan->logits;
  const at::Tensor columns = model::IndexTensor(logits.columns, model_.device);
  row.lane->out.Logits(*row.plan, "logits", logits.positions, model::Unembed(model_, Lines(span, logits.positions), columns));
}

void LogitsRun::Unembed(const std::vector<Piece>& pieces) {
  std::vector<int64_t> lines;
  for (const Piece& piece : pieces)
    for (size_t i = 0; i < piece.count; ++i)
      lines.push_back(live_.Find(piece.slot)->LineOf(Row(piece.slot).plan->logits->positions[piece.first + i]));
  const at::Tensor logits = model::Unembed(model_, model::TakeLines(normalized_, model::IndexTensor(lines, model_.device)), /*columns=*/{});
  // Memory is never shared between runs: one with a slow reader would hold what another was charged for. The best tokens are no part of it.
  const Lane* const lane = Row(pieces.front().slot).lane;
  const bool one_lane = std::all_of(pieces.begin(), pieces.end(), [&](const Piece& piece) { return Row(piece.slot).lane == lane; });
  int64_t line = 0;
  for (const Piece& piece : pieces) {
    const at::Tensor own = logits.narrow(0, line, static_cast<int64_t>(piece.count));
    const LogitsPlan& wanted = *Row(piece.slot).plan->logits;
    const bool shares = !one_lane && wanted.top_k == 0 && piece.count == wanted.positions.size();
    Emit(piece, shares ? own.clone() : own);
    line += static_cast<int64_t>(piece.count);
  }
}

void LogitsRun::Emit(const Piece& piece, const at::Tensor& logits) {
  const RowPlan& row = *Row(piece.slot).plan;
  ResultWriter& out = Row(piece.slot).lane->out;
  const std::vector<int64_t>& positions = row.logits->positions;
  const bool last = piece.first + piece.count == positions.size();
  const auto first = static_cast<int64_t>(piece.first), lines = static_cast<int64_t>(positions.size());
  if (row.logits->top_k == 0) {
    logits_.Put(first, lines, logits);
    if (last) out.Logits(row, "logits", positions, logits_.Take());
    return;
  }
  const at::Tensor wide = logits.to(at::kFloat);
  const auto [values, tokens] = model::Largest(wide, row.logits->top_k);
  top_[0].Put(first, lines, tokens);
  top_[1].Put(first, lines, values);
  top_[2].Put(first, lines, values - model::LogSumExp(wide));
  if (!last) return;
  static constexpr const char* kNames[] = {"top.tokens", "top.logits", "top.logprobs"};
  for (size_t i = 0; i < 3; ++i) out.Logits(row, kNames[i], positions, top_[i].Take());
}

}  // namespace fluoroscope::run
