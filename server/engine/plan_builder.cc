#include "engine/plan_builder.h"

#include "base/status_macros.h"
#include "engine/plan_draft.h"
#include "engine/plan_hash.h"
#include "engine/plan_parts.h"
#include "engine/resolve_gradients.h"
#include "engine/resolve_interventions.h"
#include "engine/resolve_metrics.h"

namespace fluoroscope::engine {

absl::StatusOr<BuiltPlan> BuildPlan(const LoadedModel& model, const api::ForwardRequest& request, const config::Limits& limits,
                                    RequestHandles handles) {
  BuiltPlan built;
  PlanDraft draft(model, std::move(handles));
  FS_RETURN_IF_ERROR(AddPrompts(request.prompts, limits.max_tokens, draft, built.rows));
  for (size_t i = 0; i < request.interventions.size(); ++i)
    FS_RETURN_IF_ERROR(ResolveIntervention(request.interventions[i], draft, Item("interventions", i)));
  size_t tensors = 0;
  for (size_t i = 0; i < request.captures.size(); ++i)
    if (request.captures[i].gradient_of.empty())
      FS_RETURN_IF_ERROR(AddCapture(request.captures[i], static_cast<uint32_t>(i), draft, tensors));
  for (size_t i = 0; i < request.metrics.size(); ++i) FS_RETURN_IF_ERROR(ResolveMetric(request.metrics[i], draft, Item("metrics", i)));
  for (size_t i = 0; i < request.captures.size(); ++i)  // they name metrics
    if (!request.captures[i].gradient_of.empty())
      FS_RETURN_IF_ERROR(AddGradients(request.captures[i], static_cast<uint32_t>(i), draft, tensors));
  FS_RETURN_IF_ERROR(CheckMetricValues(draft));
  if (request.logits) FS_RETURN_IF_ERROR(ResolveLogits(*request.logits, draft));
  FS_ASSIGN_OR_RETURN(built.plan, draft.Finish());
  built.plan.isolated = request.isolated;
  built.plan.buffer_bytes = int64_t{limits.sink_buffer_mib} << 20;
  built.cost = run::CostOf(built.plan);
  built.hash = HashOf(built.plan);
  built.attention = AttentionOf(built.plan);
  return built;
}

}  // namespace fluoroscope::engine
