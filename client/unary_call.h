// One request, one reply.
#pragma once

#include <grpcpp/client_context.h>

#include "absl/status/statusor.h"
#include "client/status.h"

namespace fluoroscope::client {

// Calls the stub's method: CallUnary(*models_, &v1::Models::Stub::GetModel, context, request).
template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> CallUnary(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                                grpc::ClientContext& context, const Request& request) {
  Reply reply;
  const grpc::Status status = (stub.*method)(&context, request, &reply);
  if (!status.ok()) return ToAbsl(status, request.ByteSizeLong());
  return reply;
}

}  // namespace fluoroscope::client
