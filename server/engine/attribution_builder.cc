#include "engine/attribution_builder.h"

#include <algorithm>

#include "attribution/differentiable_metric.h"
#include "base/status_macros.h"
#include "engine/plan_hash.h"

namespace fluoroscope::engine {

absl::StatusOr<BuiltAttribution> BuildAttribution(const LoadedModel& model, const api::AttributionRequest& request,
                                                  const config::Limits& limits) {
  BuiltAttribution built;
  FS_ASSIGN_OR_RETURN(built.sweep, BuildSweep(model, request.grid, limits));
  if (request.grid.cell != api::SweepCell::kPatch && request.grid.cell != api::SweepCell::kZero)
    return absl::InvalidArgumentError("grid.kind: attributions estimate SWEEP_KIND_PATCH and SWEEP_KIND_ZERO");
  const bool fixes = request.method == api::AttributionMethod::kQkFix || request.method == api::AttributionMethod::kAtpStar;
  const auto is_fixed = [](model::Site site) { return attribution::IsQuery(site) || attribution::IsKey(site); };
  const sweep::Grid& grid = built.sweep.plan.grid;
  if (fixes && !grid.units.empty() && std::any_of(grid.sites.begin(), grid.sites.end(), is_fixed))
    return absl::InvalidArgumentError(
        "grid.units: the QK fix is about whole queries and keys; leave units and the unit axis away at hook_q and hook_k, or use "
        "ATTRIBUTION_PATCHING");
  if (!request.grid.corrupt_interventions.empty())
    return absl::InvalidArgumentError("grid.corrupt_interventions: attributions have none; sweeps do");
  const bool integrated = request.method == api::AttributionMethod::kIntegratedGradients;
  for (size_t i = 0; i < built.sweep.plan.pairs.size(); ++i) {
    const sweep::Pair& pair = built.sweep.plan.pairs[i];
    if (integrated && pair.base_ids.size() != pair.source_ids.size())
      return absl::InvalidArgumentError("grid.pairs[" + std::to_string(i) +
                                        "]: integrated gradients go from prompt to prompt, so both must have the same number of tokens");
    for (const run::MetricPlan& metric : pair.base_metrics)
      if (!attribution::IsDifferentiable(metric.metric))
        return absl::InvalidArgumentError("grid.metrics: '" + metric.name +
                                          "' has no gradient; logit_difference, mean_logit, probability, log_probability and "
                                          "cross_entropy have one");
  }
  built.plan = {std::move(built.sweep.plan), request.method, request.steps, request.verify};
  built.sweep.header.cost = attribution::CostOf(built.plan);
  built.sweep.header.convention = attribution::ConventionOf(built.plan);
  built.sweep.hash = HashOf(built.plan);
  return built;
}

}  // namespace fluoroscope::engine
