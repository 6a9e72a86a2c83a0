// What every RPC needs besides its messages: who calls, until when, and the record of how it went.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include "absl/status/statusor.h"
#include "api/call.h"
#include "config/config.h"
#include "engine/engine.h"
#include "obs/metrics.h"
#include "rpc/codec_plan.h"
#include "rpc/idle_watch.h"
#include "rpc/writer.h"

namespace google::protobuf {
class Message;
}

namespace fluoroscope::rpc {

// What all calls of one server share. Owned by Server; outlives every call.
struct ServerState {
  ServerState(const config::Limits& limits, obs::Metrics& metrics)
      : limits(limits), decode{.max_prompts = limits.max_prompts, .max_tokens = limits.max_tokens}, metrics(metrics) {}

  const config::Limits limits;
  const DecodeLimits decode;
  obs::Metrics& metrics;
  std::atomic<engine::Engine*> engine{nullptr};  // null until the models are loaded
  Writer writer;
  IdleWatch idle;
};

// One RPC from its start to its end. Owned by its reactor. Cancel() and the setters are safe from any thread.
class Call {
 public:
  // `method` is "Inference.Forward", a literal.
  Call(ServerState& state, const grpc::CallbackServerContext& context, const char* method);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // The engine, if this call may use it: UNAVAILABLE while loading, INVALID_ARGUMENT for malformed metadata.
  absl::StatusOr<engine::Engine*> Admit() const;

  const api::CallContext& context() const { return context_; }

  // The client is gone or out of time: tells the engine. Returns the status that says which.
  absl::Status Cancel();

  void AddReplyBytes(uint64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void SetTimes(double queue_ms, double run_ms) {
    queue_ms_ = queue_ms;
    run_ms_ = run_ms;
  }

  // Notes how the call ends; the status to give to gRPC.
  grpc::Status End(const absl::Status& status);

  // The call is over, everything is sent: writes the metrics and the log line. Once, from OnDone.
  void Record();

 private:
  ServerState& state_;
  const char* const method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  api::CallContext context_;
  absl::Status metadata_status_;
  std::atomic<uint64_t> bytes_{0};
  std::atomic<double> queue_ms_{0}, run_ms_{0};
  std::atomic<absl::StatusCode> code_{absl::StatusCode::kUnknown};
};

// Metadata key of the caller's own name for itself, by which the queue is fair: at most 128 characters of [A-Za-z0-9._-].
inline constexpr char kPrincipalKey[] = "x-fluoroscope-principal";
// "interactive" (which is what a call without it is) or "batch": lets interactive calls go first, in the queue and on the device.
inline constexpr char kPriorityKey[] = "x-fluoroscope-priority";

// INVALID_ARGUMENT when the bytes are not a message of this type.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);
grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message);

}  // namespace fluoroscope::rpc
