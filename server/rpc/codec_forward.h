// Requests and replies of the Inference service.
#pragma once

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "api/results.h"
#include "fluoroscope/v1/inference.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// Strict checks included.
absl::StatusOr<api::ForwardRequest> DecodeForward(const fluoroscope::v1::ForwardRequest& request, const DecodeLimits& limits);

void EncodeProvenance(const api::Provenance& provenance, fluoroscope::v1::Provenance* out);
void EncodeRow(const api::RowInfo& row, fluoroscope::v1::RowInfo* out);
void EncodeForwardHeader(const api::ForwardHeader& header, fluoroscope::v1::ForwardHeader* out);

// Counts and checksum are the sender's to fill in.
void EncodeForwardSummary(const api::ForwardSummary& summary, fluoroscope::v1::ForwardSummary* out);

fluoroscope::v1::EstimateReply EncodeEstimate(const api::Estimate& estimate);

}  // namespace fluoroscope::rpc
