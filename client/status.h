// gRPC's status as absl's; the codes are the same, the server's message is passed on unchanged.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace fluoroscope::client {

absl::Status ToAbsl(const grpc::Status& status);

}  // namespace fluoroscope::client
