#include "client/client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <optional>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/raw_call.h"
#include "client/status.h"
#include "client/sweep_call.h"
#include "client/unary_call.h"

namespace fluoroscope::client {
namespace {

using std::chrono::system_clock;

// Servers send tensors in small pieces; this is for the token lists of a reply with very many prompts.
constexpr int kMaxMessageBytes = 64 << 20;

std::string RandomName() {
  std::random_device random;
  std::string name;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&name, absl::Hex(random(), absl::kZeroPad8));
  return name;
}

// The token that a message of a Generate brings; nullopt for every other part, which is as in a ForwardReply. Its first byte tells.
absl::StatusOr<std::optional<v1::GeneratedToken>> TokenOf(const grpc::ByteBuffer& message) {
  constexpr uint8_t kToken = v1::GenerateReply::kTokenFieldNumber << 3 | 2;  // length-delimited
  grpc::ByteBuffer copy(message);                                            // shares the bytes
  {
    grpc::ProtoBufferReader reader(&copy);
    const void* data = nullptr;
    int size = 0;
    if (!reader.Next(&data, &size) || size < 1 || *static_cast<const uint8_t*>(data) != kToken) return std::nullopt;
  }
  grpc::ProtoBufferReader reader(&copy);
  v1::GenerateReply reply;
  if (!reply.ParseFromZeroCopyStream(&reader) || !reply.has_token()) return absl::DataLossError("a message is not a GenerateReply");
  return std::move(*reply.mutable_token());
}

}  // namespace

Client::Client(std::shared_ptr<grpc::Channel> channel, Options options)
    : channel_(std::move(channel)),
      models_(v1::Models::NewStub(channel_)),
      inference_(v1::Inference::NewStub(channel_)),
      patching_(v1::Patching::NewStub(channel_)),
      server_(v1::Server::NewStub(channel_)),
      jobs_(v1::Jobs::NewStub(channel_)),
      options_(std::move(options)) {
  if (options_.principal.empty()) options_.principal = RandomName();
}

absl::StatusOr<Client> Client::Connect(const std::string& target, Options options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  auto channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  const auto deadline = system_clock::now() + options.connect_timeout;
  // gRPC itself would go on trying until the deadline; somebody who mistyped a port wants to know at once.
  for (auto state = channel->GetState(true); state != GRPC_CHANNEL_READY; state = channel->GetState(true)) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN || !channel->WaitForStateChange(state, deadline)) {
      return absl::UnavailableError(absl::StrCat("no server answers at ", target));
    }
  }
  return Client(std::move(channel), std::move(options));
}

std::unique_ptr<grpc::ClientContext> Client::NewContext() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata("x-fluoroscope-principal", options_.principal);
  if (options_.batch) context->AddMetadata("x-fluoroscope-priority", "batch");
  if (options_.call_timeout.count() > 0) context->set_deadline(system_clock::now() + options_.call_timeout);
  return context;
}

absl::StatusOr<v1::ServerStatus> Client::GetStatus() const {
  return CallUnary(*server_, &v1::Server::Stub::GetStatus, *NewContext(), v1::GetStatusRequest());
}

absl::StatusOr<v1::GetModelReply> Client::GetModel(const std::string& model) const {
  v1::GetModelRequest request;
  request.set_model(model);
  return CallUnary(*models_, &v1::Models::Stub::GetModel, *NewContext(), request);
}

absl::StatusOr<v1::TokenizeReply> Client::Tokenize(const v1::TokenizeRequest& request) const {
  return CallUnary(*models_, &v1::Models::Stub::Tokenize, *NewContext(), request);
}

absl::StatusOr<v1::DetokenizeReply> Client::Detokenize(const v1::DetokenizeRequest& request) const {
  return CallUnary(*models_, &v1::Models::Stub::Detokenize, *NewContext(), request);
}

absl::StatusOr<v1::EstimateReply> Client::Estimate(const v1::ForwardRequest& request) const {
  return CallUnary(*inference_, &v1::Inference::Stub::Estimate, *NewContext(), request);
}

absl::StatusOr<ForwardResult> Client::Forward(const v1::ForwardRequest& request) const {
  const auto context = NewContext();
  RawCall call(channel_, "/fluoroscope.v1.Inference/Forward", request, context.get());
  Assembler assembler;
  grpc::ByteBuffer message;
  while (call.Read(&message)) {
    if (absl::Status status = assembler.Take(&message); !status.ok()) return status;
    message.Clear();
  }
  const grpc::Status status = call.Finish();
  if (!status.ok()) return ToAbsl(status, request.ByteSizeLong());
  return assembler.Finish();
}

absl::StatusOr<ForwardResult> Client::Generate(const v1::GenerateRequest& request, const OnToken& on_token) const {
  const auto context = NewContext();
  RawCall call(channel_, "/fluoroscope.v1.Inference/Generate", request, context.get());
  Assembler assembler;
  grpc::ByteBuffer message;
  while (call.Read(&message)) {
    auto token = TokenOf(message);
    if (!token.ok()) return token.status();
    if (token->has_value()) {
      on_token(**token);
    } else if (absl::Status status = assembler.Take(&message); !status.ok()) {
      return status;
    }
    message.Clear();
  }
  const grpc::Status status = call.Finish();
  if (!status.ok()) return ToAbsl(status, request.ByteSizeLong());
  return assembler.Finish();
}

absl::StatusOr<SweepResult> Client::Sweep(const v1::SweepRequest& request, const SweepProgress& progress) const {
  const auto context = NewContext();
  return ReadSweep(*patching_->Sweep(context.get(), request), *context, request.ByteSizeLong(), progress);
}

absl::StatusOr<v1::SweepEstimate> Client::EstimateSweep(const v1::SweepRequest& request) const {
  return CallUnary(*patching_, &v1::Patching::Stub::EstimateSweep, *NewContext(), request);
}

absl::StatusOr<SweepResult> Client::PathPatch(const v1::PathPatchRequest& request, const SweepProgress& progress) const {
  const auto context = NewContext();
  return ReadSweep(*patching_->PathPatch(context.get(), request), *context, request.ByteSizeLong(), progress);
}

absl::StatusOr<v1::SweepEstimate> Client::EstimatePathPatch(const v1::PathPatchRequest& request) const {
  return CallUnary(*patching_, &v1::Patching::Stub::EstimatePathPatch, *NewContext(), request);
}

}  // namespace fluoroscope::client
