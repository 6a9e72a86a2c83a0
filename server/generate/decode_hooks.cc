#include "generate/decode_hooks.h"

#include <algorithm>
#include <utility>

#include "intervention/edit.h"
#include "intervention/region.h"

namespace fluoroscope::generate {
namespace {

using intervention::Region;
using model::Site;

// The place's entries at one line of `value`.
Region Locate(const run::Place& place, int64_t line) {
  const model::SiteSpec& spec = model::SpecOf(place.site);
  Region region;
  region.position_axis = model::PositionAxis(spec);
  region.lines = {line};
  region.head_axis = model::HeadAxis(spec);
  region.heads = place.heads;
  region.units = place.units;
  region.masked = place.site == Site::kAttnScores;
  return region;
}

// Most edits do not depend on the position; noise does.
void Edit(const run::EditPlan& plan, GeneratingRow& row, int64_t line, at::Tensor& value) {
  static const std::vector<int64_t> kThisOne = {0};
  const intervention::EditContext context{row.kept(), kThisOne};
  const Region region = Locate(plan.place, line);
  const auto* noise = std::get_if<intervention::Noise>(&plan.edit);
  if (noise == nullptr) return intervention::Apply(plan.edit, context, region, value);
  intervention::Noise here = *noise;
  here.positions = {row.position()};
  intervention::Apply(here, context, region, value);
}

}  // namespace

// Keeps what a row's writer makes.
class DecodeHooks::Captured final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    tensors_.push_back(std::get<api::NamedTensor>(std::move(part)));
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status) override {}
  std::vector<api::NamedTensor> Take() { return std::exchange(tensors_, {}); }

 private:
  std::vector<api::NamedTensor> tensors_;
};

DecodeHooks::DecodeHooks(const model::Model& model, const std::vector<GeneratingRow*>& rows)
    : rows_(rows), keys_(model.arch.positions == model::PositionScheme::kRotary ? Site::kRotK : Site::kK), captured_(rows.size()) {
  const auto busy = [](const GeneratingRow* row) { return !row->edits().empty() || !row->captures().empty(); };
  if (std::none_of(rows_.begin(), rows_.end(), busy)) return;
  actions_.resize(static_cast<size_t>(model.arch.layers) * model::kSiteCount);
  for (size_t i = 0; i < rows_.size(); ++i) {
    const auto slot = static_cast<int64_t>(i);
    for (const run::EditPlan& edit : rows_[i]->edits())
      actions_[IndexOf(edit.place.site, edit.place.layer)].push_back({slot, &edit, nullptr});
    for (const run::CapturePlan& capture : rows_[i]->captures())
      actions_[IndexOf(capture.place.site, capture.place.layer)].push_back({slot, nullptr, &capture});
    if (!rows_[i]->captures().empty()) captured_[i] = std::make_shared<Captured>();
  }
}

DecodeHooks::~DecodeHooks() = default;

size_t DecodeHooks::IndexOf(Site site, int64_t layer) const {
  return static_cast<size_t>(layer) * model::kSiteCount + static_cast<size_t>(site);
}

bool DecodeHooks::Wants(Site site, int64_t layer) const {
  return site == keys_ || site == Site::kV || (!actions_.empty() && !actions_[IndexOf(site, layer)].empty());
}

bool DecodeHooks::Wants(Site site, int64_t layer, int64_t slot) const {
  if (actions_.empty()) return false;
  const std::vector<Action>& here = actions_[IndexOf(site, layer)];
  return std::any_of(here.begin(), here.end(), [&](const Action& action) { return action.slot == slot; });
}

at::Tensor DecodeHooks::At(Site site, int64_t layer, const model::PackedRows&, at::Tensor value) {
  value = Perform(site, layer, nullptr, std::move(value));
  if (site != keys_ && site != Site::kV) return value;
  for (size_t i = 0; i < rows_.size(); ++i) {
    KvCache& cache = rows_[i]->cache();
    const auto line = static_cast<int64_t>(i);
    site == keys_ ? cache.PutK(layer, rows_[i]->position(), value, line) : cache.PutV(layer, rows_[i]->position(), value, line);
  }
  return value;
}

at::Tensor DecodeHooks::AtRow(Site site, int64_t layer, const model::RowSpan& row, at::Tensor value) {
  return Perform(site, layer, &row, std::move(value));
}

at::Tensor DecodeHooks::Perform(Site site, int64_t layer, const model::RowSpan* row, at::Tensor value) {
  if (actions_.empty()) return value;
  const std::vector<Action>& here = actions_[IndexOf(site, layer)];
  bool owned = false;  // the first edit makes a copy, which the later ones change further
  const auto concerns = [&](const Action& action) { return row == nullptr || row->slot == action.slot; };
  const auto line_of = [&](const Action& action) { return row == nullptr ? action.slot : 0; };
  for (const Action& action : here) {
    if (action.edit == nullptr || !concerns(action)) continue;
    if (!std::exchange(owned, true)) value = value.clone(at::MemoryFormat::Contiguous);
    Edit(*action.edit, *rows_[static_cast<size_t>(action.slot)], line_of(action), value);
  }
  for (const Action& action : here) {
    if (action.capture == nullptr || !concerns(action)) continue;
    const GeneratingRow& generating = *rows_[static_cast<size_t>(action.slot)];
    run::CapturePlan capture = *action.capture;
    capture.place.positions = {generating.position()};
    const at::Tensor entries = intervention::Read(value, Locate(capture.place, line_of(action)));
    run::ResultWriter(captured_[static_cast<size_t>(action.slot)])
        .Capture(generating.row(), capture, entries.clone(at::MemoryFormat::Contiguous));
  }
  return value;
}

void DecodeHooks::SendCaptures(size_t slot) {
  if (captured_[slot] == nullptr) return;
  for (api::NamedTensor& tensor : captured_[slot]->Take()) rows_[slot]->out().Pass(std::move(tensor));
}

}  // namespace fluoroscope::generate
