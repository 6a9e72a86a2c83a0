// The reactor of calls with a stream of replies.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "rpc/call.h"

namespace fluoroscope::rpc {

// Where a stream's messages come from. Take and Sent are called by one thread at a time; Stop from any, at any time.
class MessageSource {
 public:
  // A message, or the end, or neither: nothing at present (the source then calls StreamReactor::Pump when there is). With both, the message
  // is the last and leaves together with the end; Sent is not called for it.
  struct Next {
    std::optional<grpc::ByteBuffer> message;
    std::optional<absl::Status> end;
  };

  virtual ~MessageSource() = default;
  virtual Next Take(Call& call) = 0;  // must not block
  virtual void Sent() = 0;            // the message taken last has left
  // The call is over or its reader gone: drop everything, keep nothing from now on. Called once at least, whatever became of the call.
  virtual void Stop() = 0;
};

// Writes what its source gives, one message at a time, and ends exactly once. Kept alive by gRPC (until OnDone) and by whoever may still
// pump it. No lock is held over a call into gRPC or the source.
class StreamReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  static std::shared_ptr<StreamReactor> Make(ServerState& state, const grpc::CallbackServerContext& context, const char* method);

  Call& call() { return call_; }

  // Before the first Pump, at most once.
  void SetSource(std::shared_ptr<MessageSource> source);

  // Sends whatever there is to send. From any thread, any number of times, after the end too.
  void Pump();

  // Ends the call now, whatever the source still has.
  void Abort(absl::Status why);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  StreamReactor(ServerState& state, const grpc::CallbackServerContext& context, const char* method) : call_(state, context, method) {}
  MessageSource::Next TakeGuarded();

  Call call_;
  std::shared_ptr<StreamReactor> self_;
  grpc::ByteBuffer writing_;  // gRPC reads it until OnWriteDone

  std::mutex mutex_;
  std::shared_ptr<MessageSource> source_;
  bool busy_ = false;   // somebody is in Pump, a write is under way, or the call has ended
  bool again_ = false;  // Pump was called meanwhile
  std::optional<absl::Status> aborted_;
};

// Gets a stream going again, from any thread. Weak: the reactor owns the stream. What is posted keeps the reactor alive for that moment.
std::function<void()> PumpOf(ServerState& state, const std::shared_ptr<StreamReactor>& reactor);

// Serves one call: `start(request, engine, reactor)` decodes, sets the source and enqueues, or returns an error.
template <typename Request, typename Start>
grpc::ServerWriteReactor<grpc::ByteBuffer>* ServeStream(ServerState& state, const grpc::CallbackServerContext& context, const char* method,
                                                        const grpc::ByteBuffer& bytes, const Start& start) {
  const std::shared_ptr<StreamReactor> reactor = StreamReactor::Make(state, context, method);
  const auto serve = [&]() -> absl::Status {
    const absl::StatusOr<engine::Engine*> engine = reactor->call().Admit();
    if (!engine.ok()) return engine.status();
    Request request;
    if (absl::Status status = ParseMessage(bytes, &request); !status.ok()) return status;
    return start(request, **engine, reactor);
  };
  absl::Status status;
  try {
    status = serve();
  } catch (const std::exception& error) {
    status = absl::InternalError(absl::StrCat("unexpected failure: ", error.what()));
  } catch (...) {
    status = absl::InternalError("unexpected failure");
  }
  if (!status.ok()) reactor->Abort(std::move(status));
  return reactor.get();  // self_ keeps it until OnDone
}

}  // namespace fluoroscope::rpc
