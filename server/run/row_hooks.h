// Each row's captures and edits, looked up by site while a batch runs.
#pragma once

#include <vector>

#include "model/hooks.h"
#include "run/lens_run.h"
#include "run/plan.h"
#include "run/result_writer.h"

namespace fluoroscope::run {

// Belongs to one batch; used on the executor's thread. Slots are positions in `rows`.
class RowHooks final : public model::SiteHooks {
 public:
  // `kept` holds the values of earlier waves and takes those of this one; `lens` takes captures that are unembedded. All references outlive
  // the hooks.
  RowHooks(const RunPlan& plan, std::vector<size_t> rows, std::vector<at::Tensor>& kept, ResultWriter& out, LensRun& lens);

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

  const RunPlan& plan_;
  std::vector<size_t> rows_;
  std::vector<at::Tensor>& kept_;
  ResultWriter& out_;
  LensRun& lens_;
  std::vector<std::vector<Action>> actions_;  // [layer * kSiteCount + site]
};

}  // namespace fluoroscope::run
