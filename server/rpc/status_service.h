// The Server service: what a server is doing.
#pragma once

#include "fluoroscope/v1/server.grpc.pb.h"
#include "rpc/call.h"

namespace fluoroscope::rpc {

class StatusService final : public fluoroscope::v1::Server::WithRawCallbackMethod_GetStatus<fluoroscope::v1::Server::Service> {
 public:
  explicit StatusService(ServerState& state) : state_(state) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

}  // namespace fluoroscope::rpc
