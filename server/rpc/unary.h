// The reactor of calls with one reply.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include "rpc/call.h"

namespace fluoroscope::rpc {

// Ends its RPC exactly once: with the first answer, or at once when the client goes away. Kept alive by gRPC (until OnDone) and by
// whoever still holds the way to answer, so an answer that comes late does no harm.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryReactor> Make(ServerState& state, const grpc::CallbackServerContext& context, const char* method,
                                            grpc::ByteBuffer* reply) {
    auto reactor = std::shared_ptr<UnaryReactor>(new UnaryReactor(state, context, method, reply));
    reactor->self_ = reactor;
    return reactor;
  }

  Call& call() { return call_; }

  // From any thread.
  void Answer(const absl::StatusOr<grpc::ByteBuffer>& reply) {
    if (answered_.exchange(true)) return;
    if (reply.ok()) {
      *reply_ = *reply;
      call_.AddReplyBytes(reply->Length());
    }
    Finish(call_.End(reply.status()));
  }

  void OnCancel() override { Answer(call_.Cancel()); }
  void OnDone() override {
    call_.Record();
    self_.reset();
  }

 private:
  UnaryReactor(ServerState& state, const grpc::CallbackServerContext& context, const char* method, grpc::ByteBuffer* reply)
      : call_(state, context, method), reply_(reply) {}

  Call call_;
  grpc::ByteBuffer* const reply_;  // gRPC's, until Finish
  std::atomic<bool> answered_{false};
  std::shared_ptr<UnaryReactor> self_;
};

template <typename Reply>
using Done = std::function<void(const absl::StatusOr<Reply>&)>;

// The engine's answer, encoded, or its error.
template <typename Reply, typename Result, typename Encode>
auto Encoded(Done<Reply> done, Encode encode) {
  return [done = std::move(done), encode](const absl::StatusOr<Result>& result) {
    done(result.ok() ? absl::StatusOr<Reply>(encode(*result)) : result.status());
  };
}

// Serves one call: `start(request, engine, call context, done)` decodes and enqueues, and returns an error or sees to it that done is
// called, from any thread. What it throws becomes INTERNAL; without that the client would wait for ever.
template <typename Request, typename Reply, typename Start>
grpc::ServerUnaryReactor* ServeUnary(ServerState& state, const grpc::CallbackServerContext& context, const char* method,
                                     const grpc::ByteBuffer& bytes, grpc::ByteBuffer* reply, const Start& start) {
  const std::shared_ptr<UnaryReactor> reactor = UnaryReactor::Make(state, context, method, reply);
  const auto serve = [&]() -> absl::Status {
    const absl::StatusOr<engine::Engine*> engine = reactor->call().Admit();
    if (!engine.ok()) return engine.status();
    Request request;
    if (absl::Status status = ParseMessage(bytes, &request); !status.ok()) return status;
    return start(request, **engine, reactor->call().context(), Done<Reply>([reactor](const absl::StatusOr<Reply>& result) {
                   try {
                     reactor->Answer(result.ok() ? absl::StatusOr<grpc::ByteBuffer>(ToByteBuffer(*result)) : result.status());
                   } catch (const std::exception& error) {
                     reactor->Answer(absl::InternalError(error.what()));
                   }
                 }));
  };
  absl::Status status;
  try {
    status = serve();
  } catch (const std::exception& error) {
    status = absl::InternalError(absl::StrCat("unexpected failure: ", error.what()));
  } catch (...) {
    status = absl::InternalError("unexpected failure");
  }
  if (!status.ok()) reactor->Answer(status);
  return reactor.get();  // self_ keeps it until OnDone
}

}  // namespace fluoroscope::rpc
