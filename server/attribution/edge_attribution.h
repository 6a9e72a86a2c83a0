// The scores of edges over one pair of prompts: what a sender changes in the residual, times the gradient in what a receiver reads of it.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "attribution/pair_passes.h"
#include "sweep/path_planner.h"

namespace fluoroscope::attribution {

struct EdgePlan {
  sweep::PathPlan paths;  // senders, receivers and pairs
  int64_t steps = 0;      // 0: gradients at the base run (EAP); else integrated over the inputs (EAP-IG)
};

std::string ConventionOf(const EdgePlan& plan);
api::SweepCost CostOf(const EdgePlan& plan);
Scoring ScoringOf(EdgePlan plan);

// Belongs to one Work; used on the executor's thread. `plan` outlives it.
class EdgeAttribution final : public PairPasses {
 public:
  EdgeAttribution(const EdgePlan& plan, size_t pair);

  std::vector<double> Scores() const override;

 protected:
  std::set<model::Site> Sites(bool with_gradients) const override;
  bool StepScores(size_t metric) override;

 private:
  // One part of the model with one head, or none.
  struct Node {
    size_t end = 0;  // on its axis
    model::Site site = model::Site::kZ;
    int64_t layer = 0, head = 0;
  };

  static std::vector<Node> NodesOf(const std::vector<sweep::PathEnd>& ends);
  // [nodes, positions, d_model] at the positions from `begin` on; 0 at those that are not an end's.
  at::Tensor Changes(int64_t begin, int64_t count);
  at::Tensor Gradients(int64_t begin, int64_t count);
  at::Tensor GradientOf(const Node& node, int64_t begin, int64_t count);
  at::Tensor Mask(const std::vector<sweep::PathEnd>& ends, const std::vector<Node>& nodes, int64_t begin, int64_t count) const;
  at::Tensor Reaches() const;  // [senders' nodes, receivers' nodes]: 1 where the sender lies in front of the receiver

  const EdgePlan& plan_;
  const size_t pair_index_;
  const std::vector<Node> senders_, receivers_;
  const at::Tensor reaches_;
  int64_t next_ = 0;              // position, in the pass at hand
  std::vector<at::Tensor> sums_;  // by metric: f64 [senders' nodes, receivers' nodes]
};

}  // namespace fluoroscope::attribution
