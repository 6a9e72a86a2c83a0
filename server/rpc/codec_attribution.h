// Requests of the Attribution service; its replies are a sweep's (codec_sweep.h).
#pragma once

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "fluoroscope/v1/attribution.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

absl::StatusOr<api::AttributionRequest> DecodeAttribute(const fluoroscope::v1::AttributeRequest& request, const DecodeLimits& limits);
absl::StatusOr<api::EdgesRequest> DecodeAttributeEdges(const fluoroscope::v1::AttributeEdgesRequest& request, const DecodeLimits& limits);

}  // namespace fluoroscope::rpc
