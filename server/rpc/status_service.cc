#include "rpc/status_service.h"

#include "base/status_macros.h"
#include "rpc/codec_server.h"
#include "rpc/unary.h"

namespace fluoroscope::rpc {

namespace pb = ::fluoroscope::v1;

grpc::ServerUnaryReactor* StatusService::GetStatus(grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
                                                   grpc::ByteBuffer* out) {
  return ServeUnary<pb::GetStatusRequest, pb::ServerStatus>(
      state_, *context, "Server.GetStatus", *in, out,
      [](const pb::GetStatusRequest& request, engine::Engine& engine, const api::CallContext&, auto done) -> absl::Status {
        FS_RETURN_IF_ERROR(DecodeGetStatus(request));
        done(EncodeServerStatus(engine.Status()));
        return absl::OkStatus();
      });
}

}  // namespace fluoroscope::rpc
