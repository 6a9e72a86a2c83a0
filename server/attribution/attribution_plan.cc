#include "attribution/attribution_plan.h"

#include <algorithm>

#include "attribution/pair_attribution.h"
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

api::SweepCost CostOfPasses(const std::shared_ptr<const model::Model>& model, const std::vector<sweep::Pair>& pairs, double backward,
                            int64_t steps) {
  api::SweepCost cost;
  for (const sweep::Pair& pair : pairs) {
    run::RunPlan forwards;
    forwards.model = model;
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
    // A backward pass in the values alone costs what a forward pass does.
    cost.flops += run.flops * (1 + 0.5 * backward * static_cast<double>(pair.base_metrics.size())) * static_cast<double>(steps);
    // The graph, and the values of two runs.
    const int64_t longest = static_cast<int64_t>(std::max(pair.base_ids.size(), pair.source_ids.size()));
    cost.peak_bytes = std::max(cost.peak_bytes, run.peak_bytes + 2 * static_cast<uint64_t>(run::GradientBytes(*model, longest)));
  }
  return cost;
}

api::SweepCost CostOf(const AttributionPlan& plan) {
  const model::Architecture& arch = plan.sweep.model->arch;
  // Without a layer, a backward pass takes what lies in front of that one.
  const double backward = plan.method == AttributionMethod::kAtpStar ? static_cast<double>(arch.layers + 1) / 2 : 1;
  api::SweepCost cost = CostOfPasses(plan.sweep.model, plan.sweep.pairs, backward, plan.is_integrated() ? plan.steps : 1);
  cost.cells = plan.sweep.cells();
  if (plan.fixes_attention()) {  // works on a few patterns in float64
    uint64_t longest = 0;
    for (const sweep::Pair& pair : plan.sweep.pairs) longest = std::max<uint64_t>(longest, pair.base_ids.size());
    cost.peak_bytes += 16 * static_cast<uint64_t>(arch.heads) * longest * longest * sizeof(double);
  }
  if (plan.verify.top + plan.verify.random > 0) {
    // Which cells it will be is not known; those of the greediest sweep are not more than all of them.
    const api::SweepCost all = sweep::CostOf(plan.sweep);
    const double cells = static_cast<double>(plan.sweep.grid.cells());
    const double chosen = static_cast<double>(plan.verify.top) * static_cast<double>(plan.sweep.pairs.front().base_metrics.size()) +
                          static_cast<double>(plan.verify.random);
    cost.flops += all.flops * std::min(1.0, chosen / cells);
    cost.peak_bytes = std::max(cost.peak_bytes, all.peak_bytes);
  }
  return cost;
}

Scoring ScoringOf(AttributionPlan plan) {
  const auto kept = std::make_shared<const AttributionPlan>(std::move(plan));
  Scoring scoring;
  scoring.pairs = kept->sweep.pairs.size();
  scoring.cells = kept->sweep.grid.cells();
  scoring.begin = [kept](size_t pair) { return std::make_unique<PairAttribution>(*kept, pair); };
  if (kept->verify.top + kept->verify.random > 0)
    scoring.verification = {kept->sweep, kept->verify, kept->method == AttributionMethod::kAtpStar};
  return scoring;
}

}  // namespace fluoroscope::attribution
