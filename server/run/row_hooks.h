// Each row's captures and edits, looked up by site while a batch runs.
#pragma once

#include <c10/core/StorageImpl.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "model/hooks.h"
#include "run/lane.h"
#include "run/lens_run.h"

namespace fluoroscope::run {

// Belongs to one batch; used on the executor's thread. Slots are indices into `rows`. Actions are found by site, so that a site costs what
// is asked for there, however many rows of however many runs are in the batch.
class RowHooks final : public model::SiteHooks {
 public:
  // `lens` takes captures that are unembedded. All references outlive the hooks.
  RowHooks(const model::Model& model, const LaneRows& rows, LensRun& lens);

  // What is kept under this key is also put there, for rows of this batch that read it in the same layer; until Remove.
  void AlsoTo(const Lane& lane, size_t key, at::Tensor& there) { also_[{&lane, key}] = &there; }

  // Forgets what this run's rows want.
  void Remove(const Lane& lane);

  bool Wants(model::Site site, int64_t layer) const override { return !ActionsAt(site, layer).empty(); }
  bool Wants(model::Site site, int64_t layer, int64_t slot) const override;
  at::Tensor At(model::Site site, int64_t layer, const model::PackedRows& rows, at::Tensor value) override;
  at::Tensor AtRow(model::Site site, int64_t layer, const model::RowSpan& row, at::Tensor value) override;

 private:
  // What one row wants at one site. Exactly one of the three is set. Edits come before captures and keeps, so that those see edited values.
  struct Action {
    int64_t slot = 0;
    const EditPlan* edit = nullptr;
    const KeepPlan* keep = nullptr;
    const CapturePlan* capture = nullptr;
    const Place& place() const { return edit ? edit->place : keep ? keep->place : capture->place; }
  };

  std::vector<Action>& ActionsAt(model::Site site, int64_t layer);
  const std::vector<Action>& ActionsAt(model::Site site, int64_t layer) const {
    return const_cast<RowHooks*>(this)->ActionsAt(site, layer);
  }

  // Performs the actions of `row` (of all rows when null) on `value`.
  at::Tensor Perform(model::Site site, int64_t layer, const model::PackedRows* rows, const model::RowSpan* row, at::Tensor value);

  const LaneRow& RowOf(const Action& action) const { return rows_[static_cast<size_t>(action.slot)]; }

  const LaneRows& rows_;
  LensRun& lens_;
  const bool one_lane_;
  std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> shared_;  // the memory sent last without a copy, to be compared only
  std::map<std::pair<const Lane*, size_t>, at::Tensor*> also_;
  std::vector<std::vector<Action>> actions_;  // [layer * kSiteCount + site]
};

}  // namespace fluoroscope::run
