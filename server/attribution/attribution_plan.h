// What an attribution is to do, resolved.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "attribution/pair_passes.h"
#include "attribution/pair_scores.h"

namespace fluoroscope::attribution {

struct AttributionPlan {
  sweep::SweepPlan sweep;  // what is estimated
  api::AttributionMethod method = api::AttributionMethod::kAttributionPatching;
  int64_t steps = 8;       // of the integrated ones
  api::CellChoice verify;  // which cells are also run

  bool is_between() const { return method == api::AttributionMethod::kIntegratedGradients; }
  bool is_inside() const { return method == api::AttributionMethod::kIntegratedActivations; }
  bool fixes_attention() const { return method == api::AttributionMethod::kQkFix || method == api::AttributionMethod::kAtpStar; }
};

// How the scores are to be read: sign, where the gradient is taken, which steps.
std::string ConventionOf(const AttributionPlan& plan);

// Every site and layer that some cell changes, by site.
std::vector<Place> PlacesOf(const sweep::Grid& grid);

// Where this plan's gradients are taken.
Way WayOf(const AttributionPlan& plan);

// What the plan's runs must keep.
std::set<model::Site> SitesOf(const AttributionPlan& plan, bool with_gradients);

// What an AttributionRun does for this plan. `peak_bytes`: what it is admitted with, into which the exact run of its cells is fitted.
Scoring ScoringOf(AttributionPlan plan, uint64_t peak_bytes);

// Whether the QK fix has its own way to a site's effect: queries and keys, before and after their rotation.
bool IsQuery(model::Site site);
bool IsKey(model::Site site);

}  // namespace fluoroscope::attribution
