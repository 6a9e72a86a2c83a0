#include "rpc/upload.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fluoroscope::rpc {
namespace {

// What escapes a reaction would leave the client waiting for ever.
template <typename F>
absl::Status Guarded(const F& call) {
  try {
    return call();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected failure: ", error.what()));
  } catch (...) {
    return absl::InternalError("unexpected failure");
  }
}

}  // namespace

std::shared_ptr<UploadReactor> UploadReactor::Make(ServerState& state, grpc::CallbackServerContext& context, const char* method,
                                                   grpc::ByteBuffer* reply) {
  auto reactor = std::shared_ptr<UploadReactor>(new UploadReactor(state, context, method, reply));
  reactor->self_ = reactor;
  return reactor;
}

void UploadReactor::Start(std::unique_ptr<MessageTarget> target) {
  target_ = std::move(target);
  state_.idle.Add(self_, std::chrono::steady_clock::now() + idle_limit());  // before the first read: afterwards the call may be over
  Read();
}

void UploadReactor::Read() {
  waits_since_ = std::chrono::steady_clock::now();
  StartRead(&reading_);
}

UploadReactor::TimePoint UploadReactor::LookIfIdle(TimePoint now) {
  if (ended_) return TimePoint::max();
  const TimePoint since = waits_since_;
  if (since == TimePoint::max() || now - since < idle_limit()) return std::min(since, now) + idle_limit();
  End(absl::DeadlineExceededError(absl::StrCat("no message of the upload came for ", state_.limits.upload_idle_seconds,
                                               " s, the most that limits.upload_idle_seconds allows; what came before is dropped")));
  return TimePoint::max();
}

void UploadReactor::End(const absl::Status& status) {
  if (!ended_.exchange(true)) Finish(call_.End(status));
}

absl::Status UploadReactor::Answer() {
  FS_ASSIGN_OR_RETURN(grpc::ByteBuffer reply, target_->End());
  call_.AddReplyBytes(reply.Length());
  reply_->Swap(&reply);
  return absl::OkStatus();
}

void UploadReactor::OnReadDone(bool ok) {
  waits_since_ = TimePoint::max();
  if (ended_) return;
  if (ok) {
    const absl::Status status = Guarded([this] { return target_->Take(reading_); });
    if (!status.ok()) return End(status);
    Read();
    return;
  }
  // Either the client has sent all, or it is gone: then OnCancel ends the call, and nothing half is kept.
  if (context_.IsCancelled()) return End(call_.Cancel());
  // Whoever comes first ends the call, and that is decided before the target keeps anything: nothing is kept of an upload that another
  // ends.
  if (ended_.exchange(true)) return;
  Finish(call_.End(Guarded([this] { return Answer(); })));
}

void UploadReactor::OnDone() {
  call_.Record();
  target_.reset();  // others may hold this for a while yet; what the target holds goes before the server has shut down
  self_.reset();
}

}  // namespace fluoroscope::rpc
