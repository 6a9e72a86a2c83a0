// Requests of path patching; its replies are a sweep's.
#pragma once

#include "absl/status/statusor.h"
#include "api/path.h"
#include "fluoroscope/v1/path.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// Strict checks included.
absl::StatusOr<api::PathRequest> DecodePathPatch(const fluoroscope::v1::PathPatchRequest& request, const DecodeLimits& limits);

}  // namespace fluoroscope::rpc
