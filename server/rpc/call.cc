#include "rpc/call.h"

#include <google/protobuf/message.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <string>

#include "base/random_id.h"
#include "obs/logging.h"
#include "rpc/status.h"

namespace fluoroscope::rpc {
namespace {

using std::chrono::steady_clock;
using std::chrono::system_clock;

// A client's clock starts before ours, by as long as its request travels: it hangs up this much before our copy of the deadline, at most.
constexpr std::chrono::milliseconds kTravelTime{100};

bool GoodPrincipal(const std::string& name) {
  if (name.empty() || name.size() > 128) return false;
  for (const char c : name) {
    if (!isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

// "ipv4:127.0.0.1:41000" -> "127.0.0.1": connections of one machine are one principal.
std::string PeerPrincipal(const std::string& peer) {
  const size_t first = peer.find(':'), last = peer.rfind(':');
  std::string name = first != last ? peer.substr(first + 1, last - first - 1) : peer;
  for (char& c : name) {
    if (!isalnum(static_cast<unsigned char>(c)) && c != '.') c = '-';
  }
  return name.empty() ? "unknown" : name.substr(0, 128);
}

steady_clock::time_point SteadyDeadline(system_clock::time_point deadline) {
  if (deadline == system_clock::time_point::max()) return steady_clock::time_point::max();
  return steady_clock::now() + (deadline - system_clock::now());
}

}  // namespace

Call::Call(ServerState& state, const grpc::CallbackServerContext& context, const char* method) : state_(state), method_(method) {
  state_.metrics.RpcStarted(method_);
  context_.request_id = Id128::Random().ToHex();
  context_.deadline = SteadyDeadline(context.deadline());
  const auto& metadata = context.client_metadata();
  if (const auto it = metadata.find(kPrincipalKey); it == metadata.end()) {
    context_.principal = PeerPrincipal(context.peer());
  } else {
    context_.principal.assign(it->second.data(), it->second.size());
    if (!GoodPrincipal(context_.principal)) {
      metadata_status_ = absl::InvalidArgumentError(
          absl::StrCat("metadata ", kPrincipalKey, " must be 1 to 128 characters from A-Z, a-z, 0-9, '.', '_', '-'"));
    }
  }
  if (const auto it = metadata.find(kPriorityKey); it != metadata.end()) {
    const absl::string_view priority(it->second.data(), it->second.size());
    if (priority == "batch") {
      context_.priority = api::Priority::kBatch;
    } else if (priority != "interactive") {
      metadata_status_ = absl::InvalidArgumentError(absl::StrCat("metadata ", kPriorityKey, " must be interactive or batch"));
    }
  }
}

void Call::Record() {
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start_).count();
  if (code_ == absl::StatusCode::kInvalidArgument) state_.metrics.CountRejection(obs::Rejection::kInvalid);
  state_.metrics.RpcFinished(method_, CodeName(code_), seconds, bytes_);
  obs::LogRpc({.id = context_.request_id,
               .method = method_,
               .code = CodeName(code_),
               .queue_ms = queue_ms_,
               .run_ms = run_ms_,
               .total_ms = seconds * 1e3,
               .bytes = bytes_});
}

absl::StatusOr<engine::Engine*> Call::Admit() const {
  if (!metadata_status_.ok()) return metadata_status_;
  engine::Engine* engine = state_.engine.load(std::memory_order_acquire);
  if (engine == nullptr)
    return absl::UnavailableError("the server is still loading its models; try again when its health service says SERVING");
  return engine;
}

absl::Status Call::Cancel() {
  context_.cancel.Cancel();
  if (engine::Engine* engine = state_.engine.load(std::memory_order_acquire); engine != nullptr) engine->Poke();
  if (context_.deadline - steady_clock::now() <= kTravelTime) return absl::DeadlineExceededError("the call's deadline has passed");
  return absl::CancelledError("the client cancelled the call or went away");
}

grpc::Status Call::End(const absl::Status& status) {
  code_ = status.code();
  return ToGrpc(status);
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::ByteBuffer readable(bytes);  // shares the slices
  grpc::ProtoBufferReader reader(&readable);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the request is not a valid ", message->GetDescriptor()->full_name(), ": malformed bytes, or text that is not UTF-8"));
}

grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message) {
  const size_t size = message.ByteSizeLong();
  const grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace fluoroscope::rpc
