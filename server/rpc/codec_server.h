// Requests and replies of the Server service.
#pragma once

#include "absl/status/status.h"
#include "api/status.h"
#include "fluoroscope/v1/server.pb.h"

namespace fluoroscope::rpc {

absl::Status DecodeGetStatus(const fluoroscope::v1::GetStatusRequest& request);
fluoroscope::v1::ServerStatus EncodeServerStatus(const api::ServerStatus& status);

}  // namespace fluoroscope::rpc
