#include "rpc/job_stream.h"

#include <iterator>

namespace fluoroscope::rpc {

void JobStream::OnMessages(std::vector<std::string> messages, std::function<void()> more) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    messages_.insert(messages_.end(), std::move_iterator(messages.begin()), std::move_iterator(messages.end()));
    more_ = std::move(more);
  }
  pump_();
}

void JobStream::OnEnd(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (!end_) end_ = std::move(status);
  }
  pump_();
}

MessageSource::Next JobStream::Take(Call&) {
  std::function<void()> more;
  std::string message;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return {.message = {}, .end = absl::CancelledError("the reader is gone")};
    if (messages_.empty()) {
      if (end_) return {.message = {}, .end = *end_};
      more = std::exchange(more_, nullptr);
    } else {
      message = std::move(messages_.front());
      messages_.pop_front();
    }
  }
  if (more) more();  // not under the lock: it takes the jobs thread's
  if (message.empty()) return {};
  const grpc::Slice slice(message.data(), message.size());
  return {.message = grpc::ByteBuffer(&slice, 1), .end = {}};
}

void JobStream::Stop() {
  std::deque<std::string> dropped;
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  dropped.swap(messages_);
}

}  // namespace fluoroscope::rpc
