#include "run/batch_pool.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "obs/metrics.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::run {

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
    RunApart();
  } else if (!more) {
    Finish();
  }
}

void BatchPool::Begin() {
  int64_t lines = 0;
  std::deque<Member> waiting;
  for (Member& member : waiting_) {
    const bool fits = running_.empty() || lines + member.lines <= kPooledLines;
    if (fits) lines += member.lines;
    fits ? running_.push_back(std::move(member)) : waiting.push_back(std::move(member));
  }
  waiting_ = std::move(waiting);
  if (running_.empty()) return;
  holds_ = merged();
  meter_ = StepMeter();
  LaneRows rows;
  for (const Member& member : running_) {
    member.client->OnBatchBegin();
    if (holds_) member.lane->out.Hold();
    AddRows(*member.lane, member.rows, rows);
  }
  SortByLength(rows);
  metrics_.ObserveBatch(model_name_, running_.size(), rows.size(), static_cast<size_t>(lines));
  batch_ = std::make_unique<BatchRun>(*model_, std::move(rows));
}

void BatchPool::Step() {
  if (batch_ != nullptr && !holds_ && !running_.front().lane->out.wants_more()) {
    Member member = std::move(running_.front());
    running_.clear();
    member.client->OnApart(std::move(member.rows), std::move(batch_));
  }
  if (batch_ == nullptr) Begin();
  if (batch_ == nullptr) return;
  const Member& first = running_.front();
  bool done = false;
  const absl::StatusOr<bool> more = (holds_ ? meter_ : *first.meter).Step([&] {
    done = !batch_->Step();
    return !done && (holds_ || first.lane->out.wants_more());
  });
  if (!more.ok() && holds_) {
    RunApart();
  } else if (!more.ok()) {
    const Member member = std::move(running_.front());
    running_.clear();
    batch_.reset();
    member.client->OnBatchFailed(more.status());
  } else if (done) {
    Finish();
  }
}

void BatchPool::Finish() {
  batch_.reset();
  const std::vector<Member> members = std::exchange(running_, {});
  int64_t lines = 0;
  for (const Member& member : members) lines += member.lines;
  for (const Member& member : members) {
    if (holds_) {
      const auto share = [&](uint64_t bytes) { return bytes * static_cast<uint64_t>(member.lines) / static_cast<uint64_t>(lines); };
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
