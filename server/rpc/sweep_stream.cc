#include "rpc/sweep_stream.h"

#include <utility>

#include "rpc/codec_sweep.h"

namespace fluoroscope::rpc {

bool SweepStream::Push(api::SweepPart part) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || end_) return true;
    parts_.push_back(std::move(part));
  }
  WakeReader();
  return true;
}

void SweepStream::OnDrain(std::function<void()>) {}  // Push always wants more: there is nothing to resume

void SweepStream::Finish(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (end_) return;
    end_ = std::move(status);
  }
  WakeReader();
}

void SweepStream::WakeReader() {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(reader_waits_, false)) return;
  }
  pump_();
}

MessageSource::Next SweepStream::Take(Call& call) {
  api::SweepPart part;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return {.message = {}, .end = absl::CancelledError("the reader is gone")};
    // An error ends the stream at once; the cells in front of it are right, but nobody would know which are missing.
    if (end_ && (!end_->ok() || parts_.empty())) return {.message = {}, .end = *end_};
    if (parts_.empty()) {
      reader_waits_ = true;
      return {};
    }
    part = std::move(parts_.front());
    parts_.pop_front();
  }
  if (const auto* summary = std::get_if<api::SweepSummary>(&part)) call.SetTimes(summary->queue_ms, summary->run_ms);
  return {.message = ToByteBuffer(EncodeSweepPart(part)), .end = {}};
}

void SweepStream::Stop() {
  std::deque<api::SweepPart> dropped;
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  dropped.swap(parts_);
}

}  // namespace fluoroscope::rpc
