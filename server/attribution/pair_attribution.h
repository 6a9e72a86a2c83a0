// The scores of one pair of prompts: forward passes, backward passes, and sums of changes times gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "attribution/attribution_plan.h"
#include "attribution/node_scores.h"
#include "run/gradient_run.h"

namespace fluoroscope::attribution {

// Belongs to one Work; used on the executor's thread. `plan` outlives it.
class PairAttribution {
 public:
  PairAttribution(const AttributionPlan& plan, size_t pair);

  // A block of one of the passes. False when all are done.
  bool Step();

  // When all are done:
  std::vector<double> Scores() const;  // [cells, metrics]
  const api::SweepReference& reference() const { return reference_; }
  uint64_t tokens() const { return tokens_; }  // that entered the model

 private:
  enum class Stage { kSource, kBase, kBackward };

  void StepSource();
  void StepBase();
  bool StepBackward();
  bool Next();  // the pass after a complete one; false when there is none
  void StartBackward();
  void AddScores();
  void AddAttentionEffect(model::Site site, int64_t layer);
  const sweep::Pair& pair() const { return plan_.sweep.pairs[pair_]; }
  run::GradientRun& gradients() { return plan_.is_integrated() ? *between_ : *base_; }
  int64_t steps() const { return plan_.is_integrated() ? plan_.steps : 1; }
  bool drops_layers() const { return plan_.method == api::AttributionMethod::kAtpStar; }
  std::unique_ptr<run::GradientRun> NewRun(const std::vector<int64_t>& ids, bool with_gradients) const;

  const AttributionPlan& plan_;
  const size_t pair_;
  const std::set<model::Site> sites_;  // of the grid
  Stage stage_ = Stage::kSource;
  std::unique_ptr<run::GradientRun> source_, base_, between_;  // between_: one step of integrated gradients
  int64_t step_ = 0;
  size_t metric_ = 0;
  int64_t without_ = 0;  // the layer that this backward pass leaves out; behind the last one: none
  api::SweepReference reference_;
  std::vector<NodeScores> scores_;          // by metric; without a layer: of the pass at hand
  std::vector<std::vector<double>> sizes_;  // by metric and cell, where layers are left out: the sum of sizes so far
  uint64_t tokens_ = 0;
};

}  // namespace fluoroscope::attribution
