// The reactor of calls with a stream of requests and one reply.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <chrono>
#include <memory>

#include "rpc/call.h"
#include "rpc/idle_watch.h"

namespace fluoroscope::rpc {

// What a stream of requests goes into. Called by one thread at a time; dies with the call, however it ends.
class MessageTarget {
 public:
  virtual ~MessageTarget() = default;
  virtual absl::Status Take(const grpc::ByteBuffer& message) = 0;  // the next one; an error ends the call
  virtual absl::StatusOr<grpc::ByteBuffer> End() = 0;              // the client has sent all: the reply
};

// Reads one message at a time, so that a client cannot send faster than its messages are taken, and ends exactly once: with the target's
// answer, with its first error, at once when the client goes away, or with DEADLINE_EXCEEDED when no message came for
// limits.upload_idle_seconds: what a target holds must not depend on a client that says nothing and set no deadline. The target lives until
// OnDone: no read is under way then.
class UploadReactor final : public grpc::ServerReadReactor<grpc::ByteBuffer>, public Watched {
 public:
  static std::shared_ptr<UploadReactor> Make(ServerState& state, grpc::CallbackServerContext& context, const char* method,
                                             grpc::ByteBuffer* reply);

  Call& call() { return call_; }

  // Begins to read. At most once.
  void Start(std::unique_ptr<MessageTarget> target);

  // Ends the call. From any thread; only the first end counts.
  void End(const absl::Status& status);

  void OnReadDone(bool ok) override;
  void OnCancel() override { End(call_.Cancel()); }
  void OnDone() override;
  TimePoint LookIfIdle(TimePoint now) override;

 private:
  UploadReactor(ServerState& state, grpc::CallbackServerContext& context, const char* method, grpc::ByteBuffer* reply)
      : context_(context), state_(state), call_(state, context, method), reply_(reply) {}
  void Read();
  std::chrono::seconds idle_limit() const { return std::chrono::seconds(state_.limits.upload_idle_seconds); }
  absl::Status Answer();  // has the target end, and fills the reply

  grpc::CallbackServerContext& context_;  // gRPC's, until OnDone
  ServerState& state_;
  Call call_;
  grpc::ByteBuffer* const reply_;  // gRPC's, until Finish
  grpc::ByteBuffer reading_;       // gRPC writes it until OnReadDone
  std::unique_ptr<MessageTarget> target_;
  std::atomic<bool> ended_{false};
  std::atomic<TimePoint> waits_since_{TimePoint::max()};  // for the client's next message; max: it does not
  std::shared_ptr<UploadReactor> self_;
};

// Serves one call: `start(engine, call context)` gives the target, or an error.
template <typename StartCall>
grpc::ServerReadReactor<grpc::ByteBuffer>* ServeUpload(ServerState& state, grpc::CallbackServerContext& context, const char* method,
                                                       grpc::ByteBuffer* reply, const StartCall& start) {
  const std::shared_ptr<UploadReactor> reactor = UploadReactor::Make(state, context, method, reply);
  const absl::StatusOr<engine::Engine*> engine = reactor->call().Admit();
  if (!engine.ok()) {
    reactor->End(engine.status());
  } else {
    reactor->Start(start(**engine, reactor->call().context()));
  }
  return reactor.get();  // self_ keeps it until OnDone
}

}  // namespace fluoroscope::rpc
