// The scores of a sweep's cells over one pair of prompts: sums of changes times gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "attribution/attribution_plan.h"
#include "attribution/node_scores.h"
#include "attribution/pair_passes.h"

namespace fluoroscope::attribution {

// Belongs to one Work; used on the executor's thread. `plan` outlives it.
class PairAttribution final : public PairPasses {
 public:
  PairAttribution(const AttributionPlan& plan, size_t pair);

  std::vector<double> Scores() const override;

 protected:
  std::set<model::Site> Sites(bool with_gradients) const override { return SitesOf(plan_, with_gradients); }
  bool KeepsGraph() const override { return drops_layers(); }
  bool StepScores(size_t metric) override;
  at::Tensor Change(model::Site site, int64_t layer) const override;

 private:
  void AddScores(size_t metric);
  void AddScores(size_t metric, model::Site site, int64_t layer);
  void AddAttentionEffect(size_t metric, model::Site site, int64_t layer);
  bool drops_layers() const { return plan_.method == api::AttributionMethod::kAtpStar; }

  const AttributionPlan& plan_;
  const std::set<model::Site> sites_;       // of the grid
  std::vector<NodeScores> scores_;          // by metric; where layers are left out: of the pass at hand
  std::vector<std::vector<double>> sizes_;  // by metric and cell, where layers are left out: the sum of sizes so far
  // The pass that leaves out the layer `without_`, while one is made.
  bool is_without_ = false, has_blocks_ = false;
  int64_t without_ = 0;
};

}  // namespace fluoroscope::attribution
