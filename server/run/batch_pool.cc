#include "run/batch_pool.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "obs/metrics.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::run {

int64_t BatchPool::LinesOf(const std::vector<Member>& members) {
  int64_t lines = 0;
  for (const Member& member : members) lines += member.lines;
  return lines;
}

BatchPool::BatchPool(std::shared_ptr<const model::Model> model, std::string model_name, obs::Metrics& metrics)
    : model_(std::move(model)), model_name_(std::move(model_name)), metrics_(metrics) {}

void BatchPool::Enter(const Lane& lane, std::vector<size_t> rows, BatchClient& client, StepMeter& meter) {
  int64_t lines = 0;
  for (const size_t row : rows) lines += lane.plan.rows[row].lines();
  waiting_.push_back({&lane, std::move(rows), lines, &client, &meter});
}

void BatchPool::Leave(const BatchClient& client) {
  const auto is_theirs = [&](const Member& member) { return member.client == &client; };
  std::erase_if(waiting_, is_theirs);
  const auto theirs = std::find_if(running_.begin(), running_.end(), is_theirs);
  if (theirs == running_.end()) return;
  const Lane& lane = *theirs->lane;
  running_.erase(theirs);
  if (running_.empty()) {
    batch_.reset();
    return;
  }
  bool more = true;
  const absl::Status status = tensor::GuardTorch([&] { more = batch_->Remove(lane); });
  if (!status.ok()) {
    if (open_) Close();
    RunApart();
  } else if (!more) {
    Finish();
  }
}

std::vector<size_t> BatchPool::Fitting() const {
  int64_t lines = LinesOf(running_);
  std::vector<size_t> fitting;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    if (lines != 0 && lines + waiting_[i].lines > kPooledLines) continue;
    lines += waiting_[i].lines;
    fitting.push_back(i);
  }
  return fitting;
}

void BatchPool::Begin() {
  const std::vector<size_t> fitting = Fitting();
  for (const size_t i : fitting) running_.push_back(std::move(waiting_[i]));
  for (auto i = fitting.rbegin(); i != fitting.rend(); ++i) waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(*i));
  if (running_.empty()) return;
  LaneRows rows;
  for (const Member& member : running_) {
    member.client->OnBatchBegin();
    member.lane->out.Hold();
    AddRows(*member.lane, member.rows, rows);
  }
  holds_ = open_ = true;
  pieces_ = 0;
  lines_ = LinesOf(running_);
  meter_ = StepMeter();  // what an earlier batch of these held is gone
  SortByLength(rows);
  batch_ = std::make_unique<BatchRun>(*model_, std::move(rows));
}

void BatchPool::LookUp() {
  const int64_t own = LinesOf(running_);
  int64_t come = 0;
  for (const size_t i : Fitting()) come += waiting_[i].lines;
  if (come >= own && repeated_ + own * pieces_ <= (own + come) * Eighth() / 2) {
    repeated_ += own * pieces_;
    batch_.reset();
    for (const Member& member : running_) member.lane->out.Forget();
    Begin();
    return;
  }
  if (lines_ == own && running_.size() == 1) {  // it began alone
    Close();
    holds_ = false;
    running_.front().lane->out.Release();
    running_.front().meter->AddShare(meter_.run_ms(), meter_.peak_bytes(), meter_.held_bytes());
  } else if (pieces_ >= 4 * Eighth()) {
    Close();
  }
}

void BatchPool::Close() {
  open_ = false;
  size_t rows = 0;
  for (const Member& member : running_) rows += member.rows.size();
  metrics_.ObserveBatch(model_name_, running_.size(), rows, static_cast<size_t>(LinesOf(running_)));
}

bool BatchPool::Step() {
  if (batch_ != nullptr && open_ && pieces_ > 0 && pieces_ % Eighth() == 0) LookUp();
  if (batch_ != nullptr && !holds_ && !running_.front().lane->out.wants_more()) {
    Member member = std::move(running_.front());
    running_.clear();
    member.client->OnApart(std::move(member.rows), std::move(batch_));
  }
  if (batch_ == nullptr) {
    repeated_ = 0;
    Begin();
    if (batch_ == nullptr) return false;
  }
  const Member& first = running_.front();
  bool done = false, looks_up = false;
  const absl::StatusOr<bool> more = (holds_ ? meter_ : *first.meter).Step([&] {
    done = !batch_->Step();
    if (done) batch_.reset();  // in here, where the meter sees it
    looks_up = !done && ++pieces_ % Eighth() == 0 && open_;
    return !done && !looks_up && (holds_ || first.lane->out.wants_more());
  });
  if (more.ok()) {
    if (done) Finish();
    return looks_up;
  }
  if (open_) Close();
  if (running_.size() > 1) {
    RunApart();
  } else {
    Member member = std::move(running_.front());
    running_.clear();
    batch_.reset();
    if (holds_) member.lane->out.Forget();
    member.client->OnBatchFailed(more.status());
  }
  return false;
}

void BatchPool::Finish() {
  if (open_) Close();
  batch_.reset();
  const std::vector<Member> members = std::exchange(running_, {});
  for (const Member& member : members) {
    if (holds_) {
      const auto share = [&](uint64_t bytes) { return bytes * static_cast<uint64_t>(member.lines) / static_cast<uint64_t>(lines_); };
      member.meter->AddShare(meter_.run_ms(), share(meter_.peak_bytes()), share(meter_.held_bytes()));
      member.lane->out.Release();
    }
    member.client->OnBatchDone();
  }
}

void BatchPool::RunApart() {
  batch_.reset();
  for (Member& member : std::exchange(running_, {})) {
    member.lane->out.Forget();
    member.client->OnApart(std::move(member.rows), nullptr);
  }
}

}  // namespace fluoroscope::run
