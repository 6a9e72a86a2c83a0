// gRPC's status as absl's; the codes are the same, the server's message is passed on unchanged.
#pragma once

#include <grpcpp/support/status.h>

#include <cstddef>

#include "absl/status/status.h"

namespace fluoroscope::client {

// How a call ended whose request was so many bytes long. gRPC itself refuses a request over the server's receive limit, before the server
// sees it, and says no more than two numbers; here the message says what they are and what to do.
absl::Status ToAbsl(const grpc::Status& status, size_t request_bytes);

}  // namespace fluoroscope::client
