// Tensors that come with interventions: put on the model's device, and checked against the places they are for.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "engine/plan_draft.h"

namespace fluoroscope::engine {

// f32 on the model's device, multiplied by `scale`.
absl::StatusOr<at::Tensor> GivenTensor(const api::Chunk& chunk, double scale, const LoadedModel& model);

// An orthonormal basis f32 [rank, units] of the directions' span. INVALID_ARGUMENT when all are zero or there are too many.
absl::StatusOr<at::Tensor> GivenSubspace(const api::Chunk& directions, const LoadedModel& model, const std::string& field);

// INVALID_ARGUMENT unless directions of this shape are [n, units] with n at most `units`.
absl::Status CheckDirections(const std::vector<int64_t>& shape, int64_t units, const std::string& site, const std::string& field);

// INVALID_ARGUMENT when positions that are matched one by one are not written in ascending order.
absl::Status CheckAscending(const std::optional<api::Positions>& positions, uint32_t row, PlanDraft& draft, const std::string& field);

// INVALID_ARGUMENT unless the tensor broadcasts to `shape`, that of the place. Where it has an entry of its own per head or unit, the
// selection must be written in ascending order, because that is the order in which places are taken; where it has one per position,
// `ascending_positions` (of CheckAscending) decides.
absl::Status CheckFits(const at::Tensor& tensor, const std::vector<int64_t>& shape, const run::Place& place, const api::Selection& select,
                       const absl::Status& ascending_positions, const std::string& field);

}  // namespace fluoroscope::engine
