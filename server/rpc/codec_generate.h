// Requests and tokens of Inference.Generate.
#pragma once

#include "absl/status/statusor.h"
#include "api/generate.h"
#include "api/results.h"
#include "fluoroscope/v1/inference.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// Strict checks included.
absl::StatusOr<api::GenerateRequest> DecodeGenerate(const fluoroscope::v1::GenerateRequest& request, const DecodeLimits& limits);

void EncodeToken(const api::GeneratedToken& token, fluoroscope::v1::GeneratedToken* out);

}  // namespace fluoroscope::rpc
