#include "run/logits_run.h"

#include "model/forward.h"

namespace fluoroscope::run {

LogitsRun::LogitsRun(const RunPlan& plan, const std::vector<size_t>& rows, const model::PackedRows& live, at::Tensor normalized,
                     std::vector<at::Tensor>& kept, ResultWriter& out)
    : plan_(plan), live_(live), normalized_(std::move(normalized)), out_(out), metrics_(plan, rows, live, kept), rows_(rows) {
  for (const model::RowSpan& span : live_.rows()) {
    const RowPlan& row = plan_.rows[rows_[static_cast<size_t>(span.slot)]];
    if (!row.logits || !row.logits->columns.empty()) continue;
    const size_t step = static_cast<size_t>(kPositionsPerStep);
    for (size_t first = 0; first < row.logits->positions.size(); first += step)
      pieces_.push_back({&row, &span, first, std::min(step, row.logits->positions.size() - first)});
  }
}

bool LogitsRun::Step() {
  if (!metrics_.done()) {
    metrics_.Step(normalized_, out_);
    return !metrics_.done() || next_row_ < live_.rows().size() || !pieces_.empty();
  }
  if (next_row_ < live_.rows().size()) {
    const model::RowSpan& span = live_.rows()[next_row_++];
    const RowPlan& row = plan_.rows[rows_[static_cast<size_t>(span.slot)]];
    if (row.logits && !row.logits->columns.empty()) Columns(row, span);
    return next_row_ < live_.rows().size() || !pieces_.empty();
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

at::Tensor LogitsRun::Lines(const model::RowSpan& span, const std::vector<int64_t>& positions) const {
  std::vector<int64_t> lines;
  for (int64_t position : positions) lines.push_back(span.LineOf(position));
  return model::TakeLines(normalized_, model::IndexTensor(lines, plan_.model->device));
}

void LogitsRun::Columns(const RowPlan& row, const model::RowSpan& span) {
  const at::Tensor columns = model::IndexTensor(row.logits->columns, plan_.model->device);
  out_.Logits(row, "logits", row.logits->positions, model::Unembed(*plan_.model, Lines(span, row.logits->positions), columns));
}

void LogitsRun::Unembed(const std::vector<Piece>& pieces) {
  std::vector<int64_t> lines;
  for (const Piece& piece : pieces)
    for (size_t i = 0; i < piece.count; ++i) lines.push_back(piece.span->LineOf(piece.row->logits->positions[piece.first + i]));
  const at::Tensor logits =
      model::Unembed(*plan_.model, model::TakeLines(normalized_, model::IndexTensor(lines, plan_.model->device)), /*columns=*/{});
  int64_t line = 0;
  for (const Piece& piece : pieces) {
    Emit(piece, logits.narrow(0, line, static_cast<int64_t>(piece.count)));
    line += static_cast<int64_t>(piece.count);
  }
}

void LogitsRun::Emit(const Piece& piece, const at::Tensor& logits) {
  const RowPlan& row = *piece.row;
  const std::vector<int64_t>& positions = row.logits->positions;
  const bool last = piece.first + piece.count == positions.size();
  if (row.logits->top_k > 0) {
    const at::Tensor wide = logits.to(at::kFloat);
    const auto [values, tokens] = at::topk(wide, row.logits->top_k, -1);
    unfinished_top_.push_back({tokens, values, values - at::logsumexp(wide, -1, /*keepdim=*/true)});
    if (!last) return;
    static constexpr const char* kNames[] = {"top.tokens", "top.logits", "top.logprobs"};
    for (size_t i = 0; i < 3; ++i) {
      std::vector<at::Tensor> pieces;
      for (const auto& done : unfinished_top_) pieces.push_back(done[i]);
      out_.Logits(row, kNames[i], positions, at::cat(pieces));
    }
    unfinished_top_.clear();
    return;
  }
  if (piece.count == positions.size()) {
    out_.Logits(row, "logits", positions, logits);
    return;
  }
  if (piece.first == 0) unfinished_ = at::empty({static_cast<int64_t>(positions.size()), logits.size(1)}, logits.options());
  unfinished_.narrow(0, static_cast<int64_t>(piece.first), logits.size(0)).copy_(logits);
  if (last) out_.Logits(row, "logits", positions, std::exchange(unfinished_, {}));
}

}  // namespace fluoroscope::run
