#include "engine/attribution_builder.h"

#include <algorithm>

#include "attribution/attribution_cost.h"
#include "attribution/differentiable_metric.h"
#include "base/status_macros.h"
#include "engine/path_builder.h"
#include "engine/plan_hash.h"
#include "engine/sweep_builder.h"

namespace fluoroscope::engine {
namespace {

// Whether gradients can be taken at these pairs; `field` holds them.
absl::Status CheckPairs(const std::vector<sweep::Pair>& pairs, bool integrated, const std::string& field) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (integrated && pairs[i].base_ids.size() != pairs[i].source_ids.size())
      return absl::InvalidArgumentError(
          field + ".pairs[" + std::to_string(i) +
          "]: integrated gradients over the inputs go from prompt to prompt, so both must have the same number of tokens; those "
          "over activations do not");
    for (const run::MetricPlan& metric : pairs[i].base_metrics)
      if (!attribution::IsDifferentiable(metric.metric))
        return absl::InvalidArgumentError(field + ".metrics: '" + metric.name +
                                          "' has no gradient; logit differences, mean logits, probabilities, log-probabilities "
                                          "and cross-entropies have one");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BuiltAttribution> BuildAttribution(const LoadedModel& model, const api::AttributionRequest& request,
                                                  const config::Limits& limits) {
  for (api::SweepAxis axis : request.grid.over)
    if (axis == api::SweepAxis::kSecondLayer || axis == api::SweepAxis::kSecondHead)
      return absl::InvalidArgumentError(
          "grid.over: an attribution is linear, so that of two places is the sum of both; 'second_layer' and 'second_head' are axes of "
          "sweeps");
  FS_ASSIGN_OR_RETURN(BuiltSweep sweep, BuildSweep(model, request.grid, limits));
  if (request.grid.cell != api::SweepCell::kPatch && request.grid.cell != api::SweepCell::kZero)
    return absl::InvalidArgumentError("grid.kind: attributions estimate the kinds patch and zero");
  if (request.grid.fast)
    return absl::InvalidArgumentError("grid.precision: attributions are in the model's own numbers; sweeps can be fast");
  if (!request.grid.corrupt_interventions.empty())
    return absl::InvalidArgumentError("grid.corrupt_interventions: attributions have none; sweeps do");
  attribution::AttributionPlan plan{std::move(sweep.plan), request.method, request.steps, request.verify};
  const auto is_fixed = [](model::Site site) { return attribution::IsQuery(site) || attribution::IsKey(site); };
  const sweep::Grid& grid = plan.sweep.grid;
  if (plan.fixes_attention() && !grid.units.empty() && std::any_of(grid.sites.begin(), grid.sites.end(), is_fixed))
    return absl::InvalidArgumentError(
        "grid.units: the QK fix is about whole queries and keys; leave units and the unit axis away at hook_q and hook_k, or use "
        "the method attribution_patching");
  FS_RETURN_IF_ERROR(CheckPairs(plan.sweep.pairs, plan.is_between(), "grid"));
  BuiltAttribution built{{}, std::move(sweep.header), std::move(sweep.warnings), HashOf(plan)};
  built.header.cost = attribution::CostOf(plan);
  built.header.convention = attribution::ConventionOf(plan);
  built.scoring = attribution::ScoringOf(std::move(plan), built.header.cost.peak_bytes);
  return built;
}

absl::StatusOr<BuiltAttribution> BuildEdges(const LoadedModel& model, const api::EdgesRequest& request, const config::Limits& limits) {
  if (request.paths.freeze_mlps || request.paths.freeze_norms)
    return absl::InvalidArgumentError(
        "paths.freeze_mlps, paths.freeze_norms: an edge is direct, so nothing on it can be frozen; leave them false");
  FS_ASSIGN_OR_RETURN(BuiltPaths paths, BuildPaths(model, request.paths, limits));
  attribution::EdgePlan plan{std::move(paths.plan), request.method, int64_t{request.steps}, request.verify};
  FS_RETURN_IF_ERROR(CheckPairs(plan.paths.pairs, plan.method == api::EdgeMethod::kEapIg, "paths"));
  BuiltAttribution built{{}, std::move(paths.header), std::move(paths.warnings), HashOf(plan)};
  built.header.cost = attribution::CostOf(plan);
  built.header.convention = attribution::ConventionOf(plan);
  built.scoring = attribution::ScoringOf(std::move(plan), built.header.cost.peak_bytes);
  return built;
}

}  // namespace fluoroscope::engine
