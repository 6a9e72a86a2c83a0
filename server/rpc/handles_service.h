// The Handles service: for every RPC, decode, hand to the engine, encode.
#pragma once

#include "fluoroscope/v1/handles.grpc.pb.h"
#include "rpc/call.h"

namespace fluoroscope::rpc {

// Raw bytes, as in services.h.
template <typename Service>
using RawHandles = fluoroscope::v1::Handles::WithRawCallbackMethod_Put<
    fluoroscope::v1::Handles::WithRawCallbackMethod_Get<fluoroscope::v1::Handles::WithRawCallbackMethod_List<
        fluoroscope::v1::Handles::WithRawCallbackMethod_Renew<fluoroscope::v1::Handles::WithRawCallbackMethod_Delete<Service>>>>>;

class HandlesService final : public RawHandles<fluoroscope::v1::Handles::Service> {
 public:
  explicit HandlesService(ServerState& state) : state_(state) {}

  grpc::ServerReadReactor<grpc::ByteBuffer>* Put(grpc::CallbackServerContext*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

}  // namespace fluoroscope::rpc
