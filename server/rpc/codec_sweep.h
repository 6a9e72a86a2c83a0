// Requests and replies of the Patching and Attribution services.
#pragma once

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "api/sweep.h"
#include "fluoroscope/v1/attribution.pb.h"
#include "fluoroscope/v1/patching.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// Strict checks included.
absl::StatusOr<api::SweepRequest> DecodeSweep(const fluoroscope::v1::SweepRequest& request, const DecodeLimits& limits);

absl::StatusOr<api::AttributionRequest> DecodeAttribute(const fluoroscope::v1::AttributeRequest& request, const DecodeLimits& limits);

fluoroscope::v1::SweepReply EncodeSweepPart(const api::SweepPart& part);
fluoroscope::v1::SweepEstimate EncodeSweepCost(const api::SweepCost& cost);

}  // namespace fluoroscope::rpc
