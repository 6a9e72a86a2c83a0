#include "attribution/attribution_plan.h"

#include <algorithm>
#include <set>

#include "attribution/pair_attribution.h"

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
    case AttributionMethod::kIntegratedActivations:
      return "integrated gradients over the activations: sum " + change + " * mean dm/da over " + std::to_string(plan.steps) +
             " runs in which the whole site in that layer is a_base + (i + 1/2) / " + std::to_string(plan.steps) + " * " + change +
             ", one site and layer at a time, and what lies behind runs on" + sign;
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

std::vector<Place> PlacesOf(const sweep::Grid& grid) {
  const bool swept = std::find(grid.axes.begin(), grid.axes.end(), api::SweepAxis::kLayer) != grid.axes.end();
  const int64_t before = swept ? grid.window_before : 0, window = swept ? grid.window : 1;
  std::set<int64_t> layers;
  for (const int64_t layer : grid.layers)
    for (int64_t at = std::max<int64_t>(layer - before, 0); at < std::min(layer - before + window, grid.model_layers); ++at)
      layers.insert(at);
  std::vector<Place> places;
  for (const Site site : grid.sites)
    for (const int64_t layer : layers) places.emplace_back(site, layer);
  return places;
}

Way WayOf(const AttributionPlan& plan) {
  if (plan.is_between()) return {plan.steps, false, {}};
  if (plan.is_inside()) return {plan.steps, true, PlacesOf(plan.sweep.grid)};
  return {};
}

std::set<Site> SitesOf(const AttributionPlan& plan, bool with_gradients) {
  if (plan.is_inside() && with_gradients) return {};  // what is put on the way is kept in any case
  std::set<Site> sites(plan.sweep.grid.sites.begin(), plan.sweep.grid.sites.end());
  if (!plan.fixes_attention() || std::none_of(sites.begin(), sites.end(), [](Site s) { return IsQuery(s) || IsKey(s); })) return sites;
  sites.insert({Site::kQ, Site::kK});
  if (with_gradients) sites.insert(Site::kPattern);
  return sites;
}

Scoring ScoringOf(AttributionPlan plan, uint64_t peak_bytes) {
  const auto kept = std::make_shared<const AttributionPlan>(std::move(plan));
  Scoring scoring;
  scoring.pairs = kept->sweep.pairs.size();
  scoring.cells = kept->sweep.grid.cells();
  scoring.begin = [kept](size_t pair) { return std::make_unique<PairAttribution>(*kept, pair); };
  if (kept->verify.top + kept->verify.random > 0) {
    const auto exact = [kept, peak_bytes](sweep::FinishedCells finished) {
      sweep::SweepPlan plan = kept->sweep;
      plan.finished = std::move(finished);
      sweep::Pieces pieces = sweep::PiecesOf(std::move(plan));
      pieces.fits = peak_bytes;
      return pieces;
    };
    scoring.verification = {exact, kept->verify, kept->method == AttributionMethod::kAtpStar};
  }
  return scoring;
}

}  // namespace fluoroscope::attribution
