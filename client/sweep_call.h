// A stream of SweepReply, read to its end.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace fluoroscope::client {

// `request_bytes` is the size of the request, for its error. Cancels the call when what comes does not fit together.
absl::StatusOr<SweepResult> ReadSweep(grpc::ClientReader<v1::SweepReply>& call, grpc::ClientContext& context, size_t request_bytes,
                                      const Client::SweepProgress& progress);

}  // namespace fluoroscope::client
