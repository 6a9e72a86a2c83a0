#include "engine/resolve_readouts.h"

#include "base/status_macros.h"
#include "tensor/chunk.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {

absl::StatusOr<run::LensPlan> ResolveLens(const api::ReduceLens& lens, const PlanDraft& draft, const std::string& field) {
  const std::string why = draft.model().refused.Why(model::Site::kLnFinalNormalized);
  if (!why.empty()) return absl::FailedPreconditionError("logits: " + why);
  run::LensPlan plan;
  plan.top_k = lens.top_k;
  if (plan.top_k > draft.arch().vocabulary)
    return absl::InvalidArgumentError(field + ".top_k is " + std::to_string(lens.top_k) + "; the vocabulary has " +
                                      std::to_string(draft.arch().vocabulary));
  FS_ASSIGN_OR_RETURN(plan.columns, ResolveTokens(draft.model(), lens.tokens, field + ".tokens"));
  return plan;
}

absl::StatusOr<run::WritesPlan> ResolveWrites(const api::ReduceWrites& writes, const run::Place& place, const PlanDraft& draft,
                                              const std::string& field) {
  const model::Model& model = *draft.model().model;
  run::WritesPlan plan;
  FS_ASSIGN_OR_RETURN(plan.directions, tensor::FromChunk(writes.directions));
  FS_ASSIGN_OR_RETURN(plan.directions, tensor::GuardTorch([&] { return plan.directions.to(model.device); }));
  if (plan.directions.dim() != 2 || plan.directions.size(1) != model.arch.d_model)
    return absl::InvalidArgumentError(field + ".directions must be [n, " + std::to_string(model.arch.d_model) +
                                      "], directions of the residual");
  plan.top_k = writes.top_k;
  const int64_t units = place.units.empty() ? model.arch.d_mlp : static_cast<int64_t>(place.units.size());
  if (plan.top_k > units)
    return absl::InvalidArgumentError(field + ".top_k is " + std::to_string(writes.top_k) + "; there are " + std::to_string(units) +
                                      " units");
  plan.out = model.weights.blocks[static_cast<size_t>(place.layer)].mlp_out.weight;
  return plan;
}

}  // namespace fluoroscope::engine
