#include "attribution/attribution_plan.h"

#include <algorithm>

#include "run/cost.h"
#include "run/gradient_run.h"

namespace fluoroscope::attribution {

using api::AttributionMethod;
using model::Site;

bool IsQuery(Site site) { return site == Site::kQ || site == Site::kRotQ; }
bool IsKey(Site site) { return site == Site::kK || site == Site::kRotK; }

std::string ConventionOf(const AttributionPlan& plan) {
  const std::string change = plan.sweep.cell == api::SweepCell::kZero ? "(0 - a_base)" : "(a_source - a_base)";
  const std::string sign = "; positive where the change would raise the metric above the base run's";
  const std::string fix =
      "sum " + change +
      " * dm/da at the base run, for queries and keys sum (pattern with the new one - pattern) * dm/dpattern, each position by itself";
  switch (plan.method) {
    case AttributionMethod::kGradientTimesInput:
      return "gradient x input: sum a_base * dm/da at the base run; the first-order effect of removing the node, with the other sign";
    case AttributionMethod::kIntegratedGradients:
      return "integrated gradients over the inputs: sum " + change + " * mean dm/da over " + std::to_string(plan.steps) +
             " runs whose first hook_resid_pre is base + (i + 1/2) / " + std::to_string(plan.steps) + " * (source - base)" + sign;
    case AttributionMethod::kQkFix:
      return "attribution patching with the QK fix: " + fix + sign;
    case AttributionMethod::kAtpStar:
      return "AtP*: sizes without sign, 1 / (layers - 1) * sum over layers of |score with the gradient through that layer's attention and "
             "MLP left out|; "
             "score: " +
             fix;
    case AttributionMethod::kAttributionPatching:
      break;
  }
  return "attribution patching: sum " + change + " * dm/da at the base run" + sign;
}

api::SweepCost CostOf(const AttributionPlan& plan) {
  const model::Model& model = *plan.sweep.model;
  api::SweepCost cost;
  cost.cells = plan.sweep.cells();
  for (const sweep::Pair& pair : plan.sweep.pairs) {
    run::RunPlan forwards;
    forwards.model = plan.sweep.model;
    const auto add = [&](const std::vector<int64_t>& ids, const std::vector<run::MetricPlan>& metrics) {
      run::RowPlan& row = forwards.rows.emplace_back();
      row.ids = ids;
      row.metrics = metrics;
    };
    add(pair.base_ids, pair.base_metrics);
    add(pair.source_ids, pair.source_metrics);
    forwards.waves = {{0, 1}};
    forwards.Finish();
    const run::Cost run = run::CostOf(forwards);
    // A backward pass in the values alone costs what a forward pass does; without a layer it takes what lies in front of that one.
    const double layers = static_cast<double>(model.arch.layers);
    const double backward =
        static_cast<double>(pair.base_metrics.size()) * (plan.method == AttributionMethod::kAtpStar ? (layers + 1) / 2 : 1);
    cost.flops += run.flops * (1 + 0.5 * backward) * (plan.is_integrated() ? static_cast<double>(plan.steps) : 1);
    const int64_t longest = static_cast<int64_t>(std::max(pair.base_ids.size(), pair.source_ids.size()));
    // The graph, and the values of two runs; the fix works on a few patterns in float64.
    const uint64_t attention =
        plan.fixes_attention() ? static_cast<uint64_t>(16 * model.arch.heads * longest * longest) * sizeof(double) : 0;
    cost.peak_bytes = std::max(cost.peak_bytes, run.peak_bytes + 2 * static_cast<uint64_t>(run::GradientBytes(model, longest)) + attention);
  }
  cost.forwards_flops = 0;
  if (plan.verify.top + plan.verify.random > 0) {
    // Which cells it will be is not known; those of the greediest sweep are not more than all of them.
    const api::SweepCost all = sweep::CostOf(plan.sweep);
    const double cells = static_cast<double>(plan.sweep.grid.cells());
    const double chosen = static_cast<double>(plan.verify.top) * static_cast<double>(plan.sweep.pairs.front().base_metrics.size()) +
                          static_cast<double>(plan.verify.random);
    cost.flops += all.flops * std::min(1.0, chosen / cells);
    cost.peak_bytes = std::max(cost.peak_bytes, all.peak_bytes);
    cost.forwards_flops = all.forwards_flops;
  }
  return cost;
}

}  // namespace fluoroscope::attribution
