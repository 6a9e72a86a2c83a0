// absl::Status to gRPC and its names.
#pragma once

#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace fluoroscope::rpc {

// Same code, same message. Very long messages are cut: gRPC carries them in a header of limited size.
grpc::Status ToGrpc(const absl::Status& status);

// "OK", "INVALID_ARGUMENT", ...: the closed set of the metrics' `code` label.
std::string_view CodeName(absl::StatusCode code);

}  // namespace fluoroscope::rpc
