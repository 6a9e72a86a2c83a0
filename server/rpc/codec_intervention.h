// Interventions of requests. As in codec_plan.h: everything is checked that can be checked without the model.
#pragma once

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "fluoroscope/v1/plan.pb.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {

// `prompts` is their number: rows must be below it.
absl::StatusOr<api::Intervention> DecodeIntervention(const fluoroscope::v1::Intervention& intervention, size_t prompts,
                                                     const FieldPath& path);

}  // namespace fluoroscope::rpc
