// Metrics of requests. As in codec_plan.h: everything is checked that can be checked without the model.
#pragma once

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "fluoroscope/v1/plan.pb.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {

// `prompts` is their number: rows must be below it. `of_pairs`: rows are pairs, and what a metric compares with is one of the pair's two
// runs.
absl::StatusOr<api::Metric> DecodeMetric(const fluoroscope::v1::Metric& metric, size_t prompts, const FieldPath& path,
                                         bool of_pairs = false);

}  // namespace fluoroscope::rpc
