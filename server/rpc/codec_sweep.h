// Requests and replies of the Patching service.
#pragma once

#include "absl/status/statusor.h"
#include "api/sweep.h"
#include "fluoroscope/v1/patching.pb.h"
#include "rpc/codec_plan.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {

// INVALID_ARGUMENT when a pair has source handles: `what` cannot read any.
absl::Status RefuseHandles(const google::protobuf::RepeatedPtrField<fluoroscope::v1::SweepPair>& pairs, const char* what,
                           const FieldPath& path);

// What sweeps and path patching share; the messages have passed CheckStrict. Prompts may be absent where there are handles.
absl::StatusOr<std::vector<api::SweepPair>> DecodePairs(const google::protobuf::RepeatedPtrField<fluoroscope::v1::SweepPair>& pairs,
                                                        const DecodeLimits& limits);
absl::StatusOr<std::vector<api::Metric>> DecodeSweepMetrics(const google::protobuf::RepeatedPtrField<fluoroscope::v1::Metric>& metrics,
                                                            size_t pairs);

// What came as a choice of cells, if it may be one.
absl::StatusOr<api::CellChoice> CheckCellChoice(const api::CellChoice& choice, const FieldPath& path);

// Strict checks included.
absl::StatusOr<api::SweepRequest> DecodeSweep(const fluoroscope::v1::SweepRequest& request, const DecodeLimits& limits);

fluoroscope::v1::SweepReply EncodeSweepPart(const api::SweepPart& part);
fluoroscope::v1::SweepEstimate EncodeSweepCost(const api::SweepCost& cost);

}  // namespace fluoroscope::rpc
