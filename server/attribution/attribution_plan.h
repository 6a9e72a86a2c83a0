// What an attribution is to do, resolved.
#pragma once

#include <cstdint>
#include <string>

#include "attribution/pair_scores.h"

namespace fluoroscope::attribution {

struct AttributionPlan {
  sweep::SweepPlan sweep;  // what is estimated
  api::AttributionMethod method = api::AttributionMethod::kAttributionPatching;
  int64_t steps = 8;       // of kIntegratedGradients
  api::CellChoice verify;  // which cells are also run

  bool is_integrated() const { return method == api::AttributionMethod::kIntegratedGradients; }
  bool fixes_attention() const { return method == api::AttributionMethod::kQkFix || method == api::AttributionMethod::kAtpStar; }
};

// How the scores are to be read: sign, where the gradient is taken, which steps.
std::string ConventionOf(const AttributionPlan& plan);

// Bytes for admission, and the floating-point operations; of the cells that are run, too.
api::SweepCost CostOf(const AttributionPlan& plan);

// Those of the passes alone: `backward` backward passes for each metric of a pair, at the base run, or all at each of `steps` runs.
api::SweepCost CostOfPasses(const std::shared_ptr<const model::Model>& model, const std::vector<sweep::Pair>& pairs, double backward,
                            int64_t steps);

// What an AttributionRun does for this plan.
Scoring ScoringOf(AttributionPlan plan);

// Whether the QK fix has its own way to a site's effect: queries and keys, before and after their rotation.
bool IsQuery(model::Site site);
bool IsKey(model::Site site);

}  // namespace fluoroscope::attribution
