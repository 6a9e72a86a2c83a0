// What happens at the sites while a batch of continuations runs one token each.
#pragma once

#include <memory>
#include <vector>

#include "generate/generating_row.h"
#include "model/hooks.h"
#include "model/model.h"

namespace fluoroscope::generate {

// Belongs to one DecodeBatch; used on the executor's thread. Line i of a packed value is row i's one token. Each row's edits act first,
// then its captures are taken, then its keys and values are written to its cache.
class DecodeHooks final : public model::SiteHooks {
 public:
  DecodeHooks(const model::Model& model, const std::vector<GeneratingRow*>& rows);
  ~DecodeHooks() override;

  bool Wants(model::Site site, int64_t layer) const override;
  bool Wants(model::Site site, int64_t layer, int64_t slot) const override;
  at::Tensor At(model::Site site, int64_t layer, const model::PackedRows& rows, at::Tensor value) override;
  at::Tensor AtRow(model::Site site, int64_t layer, const model::RowSpan& row, at::Tensor value) override;

  // Sends what row `slot` captured. Until then nobody has seen it, so a batch that failed may run again.
  void SendCaptures(size_t slot);

 private:
  struct Action {
    int64_t slot;
    const run::EditPlan* edit;        // one of the two
    const run::CapturePlan* capture;  // of the plan: its place says no position
  };
  class Captured;

  size_t IndexOf(model::Site site, int64_t layer) const;
  at::Tensor Perform(model::Site site, int64_t layer, const model::RowSpan* row, at::Tensor value);

  const std::vector<GeneratingRow*>& rows_;
  const model::Site keys_;                           // the site of k as the scores read it
  std::vector<std::vector<Action>> actions_;         // [layer * kSiteCount + site]; empty when no row has any
  std::vector<std::shared_ptr<Captured>> captured_;  // by slot
};

}  // namespace fluoroscope::generate
