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
  api::EdgeMethod method = api::EdgeMethod::kEap;
  int64_t steps = 8;       // of the integrated ones
  api::CellChoice verify;  // which edges are also run
};

std::string ConventionOf(const EdgePlan& plan);
// Where this plan's gradients are taken.
Way WayOf(const EdgePlan& plan);
// What the plan's runs must keep.
std::set<model::Site> SitesOf(const EdgePlan& plan, bool with_gradients);
// Of each group of senders whose gradients come from the same passes, and of the receivers that they may reach: one group, or one for each
// place of WayOf.
struct NodeCount {
  int64_t senders = 0, receivers = 0;
};
std::vector<NodeCount> NodeCountsOf(const EdgePlan& plan);
// Whose changes and gradients are multiplied in one go, so that long prompts stay small.
int64_t PositionsAtOnce(const NodeCount& nodes, int64_t d_model);
// What an edge's exact value is of: the direct path alone.
sweep::PathPlan DirectPaths(const EdgePlan& plan);
// `peak_bytes`: what it is admitted with, into which the exact run of its edges is fitted.
Scoring ScoringOf(EdgePlan plan, uint64_t peak_bytes);

// Belongs to one Work; used on the executor's thread. `plan` outlives it.
class EdgeAttribution final : public PairPasses {
 public:
  EdgeAttribution(const EdgePlan& plan, size_t pair);

  std::vector<double> Scores() const override;

 protected:
  std::set<model::Site> Sites(bool with_gradients) const override { return SitesOf(plan_, with_gradients); }
  bool StepScores(size_t metric) override;

 private:
  // One part of the model with one head, or none.
  struct Node {
    size_t end = 0;  // on its axis
    model::Site site = model::Site::kZ;
    int64_t layer = 0, head = 0;
  };

  // Senders whose gradients come from the same passes, and what they may reach.
  struct Part {
    std::vector<Node> senders, receivers;
    at::Tensor reaches;            // f64 [senders, receivers]: 1 where the sender lies in front of the receiver
    std::vector<at::Tensor> sums;  // by metric: f64 [senders, receivers]
  };

  static std::vector<Node> NodesOf(const std::vector<sweep::PathEnd>& ends);
  // [nodes, positions, d_model] at the positions from `begin` on; 0 at those that are not an end's.
  at::Tensor Changes(const std::vector<Node>& senders, int64_t begin, int64_t count);
  at::Tensor Gradients(const std::vector<Node>& receivers, int64_t begin, int64_t count);
  at::Tensor GradientOf(const Node& node, int64_t begin, int64_t count);
  at::Tensor Mask(const std::vector<sweep::PathEnd>& ends, const std::vector<Node>& nodes, int64_t begin, int64_t count) const;
  Part PartOf(std::vector<Node> senders, std::vector<Node> receivers) const;

  const EdgePlan& plan_;
  const size_t pair_index_;
  std::vector<Part> parts_;  // one; or of each of places(), in that order
  int64_t next_ = 0;         // position, in the pass at hand
};

}  // namespace fluoroscope::attribution
