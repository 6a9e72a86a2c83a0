#include "rpc/stream.h"

#include <utility>

namespace fluoroscope::rpc {

std::shared_ptr<StreamReactor> StreamReactor::Make(ServerState& state, const grpc::CallbackServerContext& context, const char* method) {
  auto reactor = std::shared_ptr<StreamReactor>(new StreamReactor(state, context, method));
  reactor->self_ = reactor;
  return reactor;
}

void StreamReactor::SetSource(std::shared_ptr<MessageSource> source) {
  const std::lock_guard lock(mutex_);
  source_ = std::move(source);
}

MessageSource::Next StreamReactor::TakeGuarded() {
  std::shared_ptr<MessageSource> source;
  {
    const std::lock_guard lock(mutex_);
    again_ = false;
    if (aborted_) return {.message = {}, .end = *aborted_};
    source = source_;
  }
  if (source == nullptr) return {};
  try {
    return source->Take(call_);
  } catch (const std::exception& error) {
    return {.message = {}, .end = absl::InternalError(absl::StrCat("unexpected failure: ", error.what()))};
  } catch (...) {
    return {.message = {}, .end = absl::InternalError("unexpected failure")};
  }
}

void StreamReactor::Pump() {
  {
    const std::lock_guard lock(mutex_);
    again_ = true;
    if (busy_) return;
    busy_ = true;
  }
  while (true) {
    MessageSource::Next next = TakeGuarded();
    if (next.message) {
      writing_.Swap(&*next.message);
      call_.AddReplyBytes(writing_.Length());
    }
    if (next.end) {  // busy_ for ever: nothing may follow
      const grpc::Status status = call_.End(*next.end);
      next.message ? StartWriteAndFinish(&writing_, grpc::WriteOptions(), status) : Finish(status);
      return;
    }
    if (next.message) {
      StartWrite(&writing_);  // busy_ until OnWriteDone
      return;
    }
    const std::lock_guard lock(mutex_);
    if (!again_) {
      busy_ = false;
      return;
    }
  }
}

void StreamReactor::Abort(absl::Status why) {
  std::shared_ptr<MessageSource> source;
  {
    const std::lock_guard lock(mutex_);
    if (!aborted_) aborted_ = std::move(why);
    source = source_;
  }
  if (source != nullptr) source->Stop();
  Pump();
}

void StreamReactor::OnWriteDone(bool ok) {
  writing_.Clear();  // gives the tensor's memory back
  std::shared_ptr<MessageSource> source;
  {
    const std::lock_guard lock(mutex_);
    source = source_;
    busy_ = false;
  }
  if (!ok) {
    Abort(call_.Cancel());
    return;
  }
  source->Sent();
  Pump();
}

void StreamReactor::OnCancel() { Abort(call_.Cancel()); }

void StreamReactor::OnDone() {
  call_.Record();
  std::shared_ptr<MessageSource> source;
  {
    const std::lock_guard lock(mutex_);
    source = std::move(source_);
  }
  // However the call ended: a source that threw would else wait for ever for what it holds to be sent, and its run would stay charged.
  if (source != nullptr) source->Stop();
  self_.reset();
}

std::function<void()> PumpOf(ServerState& state, const std::shared_ptr<StreamReactor>& reactor) {
  return [&writer = state.writer, weak = std::weak_ptr(reactor)] {
    if (auto reactor = weak.lock(); reactor != nullptr) writer.Post([reactor] { reactor->Pump(); });
  };
}

}  // namespace fluoroscope::rpc
