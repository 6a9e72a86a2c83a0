#include "rpc/handles_service.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_handles.h"
#include "rpc/forward_stream.h"
#include "rpc/stream.h"
#include "rpc/unary.h"
#include "rpc/upload.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;
using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

// A PutHeader, then PutChunks.
class PutTarget final : public MessageTarget {
 public:
  PutTarget(engine::Engine& engine, const api::CallContext& call) : engine_(engine), call_(call) {}

  absl::Status Take(const ByteBuffer& message) override {
    pb::PutRequest request;
    FS_RETURN_IF_ERROR(ParseMessage(message, &request));
    FS_RETURN_IF_ERROR(CheckPut(request));
    if (request.has_header()) {
      if (upload_ != nullptr) return absl::InvalidArgumentError("header: a second one came; an upload has one, in its first message");
      FS_ASSIGN_OR_RETURN(const api::PutHeader header, DecodePutHeader(request.header()));
      FS_ASSIGN_OR_RETURN(upload_, engine_.handles().Put(header, call_));
      return absl::OkStatus();
    }
    if (upload_ == nullptr) return absl::InvalidArgumentError("chunk: the first message of an upload must be its header");
    const std::string& data = request.chunk().data();
    return upload_->Append(request.chunk().offset(), std::as_bytes(std::span(data.data(), data.size())));
  }

  absl::StatusOr<ByteBuffer> End() override {
    if (upload_ == nullptr) return absl::InvalidArgumentError("the upload has no message; the first must be its header");
    FS_ASSIGN_OR_RETURN(const api::Handle handle, upload_->Finish());
    pb::PutReply reply;
    EncodeHandle(handle, reply.mutable_handle());
    return ToByteBuffer(reply);
  }

 private:
  engine::Engine& engine_;
  const api::CallContext& call_;
  std::unique_ptr<api::Upload> upload_;
};

}  // namespace

grpc::ServerReadReactor<ByteBuffer>* HandlesService::Put(CallbackServerContext* context, ByteBuffer* out) {
  return ServeUpload(state_, *context, "Handles.Put", out,
                     [](engine::Engine& engine, const api::CallContext& call) { return std::make_unique<PutTarget>(engine, call); });
}

grpc::ServerWriteReactor<ByteBuffer>* HandlesService::Get(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::GetHandleRequest>(
      state_, *context, "Handles.Get", *in,
      [this](const pb::GetHandleRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::HandleSlice slice, DecodeGetHandle(message));
        auto stream = std::make_shared<ForwardStream>(uint64_t{state_.limits.sink_buffer_mib} * 1024 * 1024, PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.handles().Get(std::move(slice), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* HandlesService::List(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::ListHandlesRequest, pb::ListHandlesReply>(
      state_, *context, "Handles.List", *in, out,
      [](const pb::ListHandlesRequest& request, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const std::string after, DecodeListHandles(request));
        done(EncodeHandlePage(engine.handles().List(after, call)));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* HandlesService::Renew(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::RenewHandleRequest, pb::RenewHandleReply>(
      state_, *context, "Handles.Renew", *in, out,
      [](const pb::RenewHandleRequest& request, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const Lease lease, DecodeRenewHandle(request));
        FS_ASSIGN_OR_RETURN(const api::Handle handle, engine.handles().Renew(lease.id, lease.ttl_seconds, call));
        pb::RenewHandleReply reply;
        EncodeHandle(handle, reply.mutable_handle());
        done(reply);
        return absl::OkStatus();
      });
}

ServerUnaryReactor* HandlesService::Delete(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::DeleteHandleRequest, pb::DeleteHandleReply>(
      state_, *context, "Handles.Delete", *in, out,
      [](const pb::DeleteHandleRequest& request, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const std::string id, DecodeDeleteHandle(request));
        FS_RETURN_IF_ERROR(engine.handles().Delete(id, call));
        done(pb::DeleteHandleReply());
        return absl::OkStatus();
      });
}

}  // namespace fluoroscope::rpc
