// What one row's pass with gradients does at its sites: the row's edits, and a record of what a gradient is wanted of.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "model/hooks.h"
#include "run/plan.h"

namespace fluoroscope::run {

// A site in a layer (0 outside the blocks).
using HookPlace = std::pair<model::Site, int64_t>;

// Where a place's entries lie in the site's tensor of its whole row.
intervention::Region RegionOf(const Place& place);

// Belongs to one RowGradients; used on the executor's thread, outside of inference mode.
class GradientHooks final : public model::SiteHooks {
 public:
  // The references outlive it. `kept`: what edits read.
  GradientHooks(const RowPlan& row, const std::vector<at::Tensor>& kept);

  // From here on these are recorded; what was, is forgotten.
  void Record(std::set<HookPlace> places);

  // By place, behind its edits: what the pass goes on with, so that gradients reach it.
  const std::map<HookPlace, at::Tensor>& seen() const { return seen_; }

  bool Wants(model::Site site, int64_t layer) const override;
  bool Wants(model::Site site, int64_t layer, int64_t) const override { return Wants(site, layer); }
  at::Tensor At(model::Site site, int64_t layer, const model::PackedRows&, at::Tensor value) override { return Pass(site, layer, value); }
  at::Tensor AtRow(model::Site site, int64_t layer, const model::RowSpan&, at::Tensor value) override { return Pass(site, layer, value); }

 private:
  at::Tensor Pass(model::Site site, int64_t layer, at::Tensor value);

  const std::vector<at::Tensor>& kept_;
  std::map<HookPlace, std::vector<const EditPlan*>> edits_;  // in the order given
  std::set<HookPlace> recorded_;
  std::map<HookPlace, at::Tensor> seen_;
};

}  // namespace fluoroscope::run
