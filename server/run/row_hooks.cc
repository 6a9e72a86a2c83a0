#include "run/row_hooks.h"

#include <algorithm>
#include <set>

#include "intervention/edit.h"
#include "intervention/region.h"

namespace fluoroscope::run {
namespace {

using intervention::Region;

// Where a place lies in `value`. `span` tells where the row's lines are; in a tensor of one row they start at 0. Positions that are not
// there any more are left out: in the last layer nobody reads them.
Region Locate(const Place& place, const model::RowSpan& span, bool packed) {
  const model::SiteSpec& spec = model::SpecOf(place.site);
  Region region;
  region.position_axis = model::PositionAxis(spec);
  region.head_axis = model::HeadAxis(spec);
  region.heads = place.heads;
  region.units = place.units;
  region.masked = place.site == model::Site::kAttnScores;
  region.lines.reserve(place.positions.size());
  for (int64_t position : place.positions)
    if (const int64_t line = span.LineOf(position); line >= 0) region.lines.push_back(packed ? line : line - span.begin);
  return region;
}

// Whether a capture sends lines of `value` as they are: neither reduced, nor only some heads or units, nor copied to be kept.
bool SendsLines(const CapturePlan& capture) {
  return capture.keep_seconds == 0 && !capture.reduced() && capture.place.heads.empty() && capture.place.units.empty();
}

bool OneLane(const LaneRows& rows) {
  return std::all_of(rows.begin(), rows.end(), [&](const LaneRow& row) { return row.lane == rows.front().lane; });
}

// Whether intervention::Read gives a view of the value and no copy.
bool IsView(const Region& region) {
  const auto lines = static_cast<int64_t>(region.lines.size());
  return region.lines.back() - region.lines.front() + 1 == lines && (region.head_axis < 0 || region.heads.empty()) && region.units.empty();
}

// A captured slice may share the batch's memory only if all of that memory is captured so, else it would keep alive (and the budget would
// not know of) more than was asked for.
bool MayShare(const at::Tensor& value, int64_t lines, int64_t sent_lines) {
  return value.is_contiguous() && value.storage().nbytes() == value.nbytes() && sent_lines == lines;
}

}  // namespace

RowHooks::RowHooks(const model::Model& model, const LaneRows& rows, LensRun& lens)
    : rows_(rows), lens_(lens), one_lane_(OneLane(rows)), actions_(static_cast<size_t>(model.arch.layers) * model::kSiteCount) {
  for (size_t slot = 0; slot < rows_.size(); ++slot) {
    const RowPlan& row = *rows_[slot].plan;
    const int64_t s = static_cast<int64_t>(slot);
    for (const EditPlan& edit : row.edits) ActionsAt(edit.place.site, edit.place.layer).push_back({s, &edit, nullptr, nullptr});
  }
  for (size_t slot = 0; slot < rows_.size(); ++slot) {
    const RowPlan& row = *rows_[slot].plan;
    const int64_t s = static_cast<int64_t>(slot);
    for (const KeepPlan& keep : row.keeps) ActionsAt(keep.place.site, keep.place.layer).push_back({s, nullptr, &keep, nullptr});
    for (const CapturePlan& capture : row.captures)
      ActionsAt(capture.place.site, capture.place.layer).push_back({s, nullptr, nullptr, &capture});
  }
}

void RowHooks::Remove(const Lane& lane) {
  std::erase_if(also_, [&](const auto& also) { return also.first.first == &lane; });
  for (std::vector<Action>& actions : actions_) std::erase_if(actions, [&](const Action& action) { return RowOf(action).lane == &lane; });
}

std::vector<RowHooks::Action>& RowHooks::ActionsAt(model::Site site, int64_t layer) {
  return actions_[static_cast<size_t>(layer) * model::kSiteCount + static_cast<size_t>(site)];
}

bool RowHooks::Wants(model::Site site, int64_t layer, int64_t slot) const {
  for (const Action& action : ActionsAt(site, layer))
    if (action.slot == slot) return true;
  return false;
}

at::Tensor RowHooks::At(model::Site site, int64_t layer, const model::PackedRows& rows, at::Tensor value) {
  return Perform(site, layer, &rows, nullptr, std::move(value));
}

at::Tensor RowHooks::AtRow(model::Site site, int64_t layer, const model::RowSpan& row, at::Tensor value) {
  return Perform(site, layer, nullptr, &row, std::move(value));
}

at::Tensor RowHooks::Perform(model::Site site, int64_t layer, const model::PackedRows* rows, const model::RowSpan* row, at::Tensor value) {
  struct Read {
    const Action* action;
    Region region;
    bool again = false;  // lines that an earlier one sends as well
  };
  std::vector<Read> reads;
  std::set<int64_t> sent_lines;
  bool owned = false;  // the first edit makes a copy, which the later ones change further
  for (const Action& action : ActionsAt(site, layer)) {
    const model::RowSpan* span = row != nullptr ? row : rows->Find(action.slot);
    if (span == nullptr || span->slot != action.slot) continue;  // another row, or one that has left the batch
    Region region = Locate(action.place(), *span, row == nullptr);
    if (region.lines.empty()) continue;
    if (action.edit == nullptr) {
      bool again = false;
      if (action.capture != nullptr && IsView(region) && SendsLines(*action.capture)) {
        again = std::any_of(region.lines.begin(), region.lines.end(), [&](int64_t line) { return sent_lines.count(line) > 0; });
        if (!again) sent_lines.insert(region.lines.begin(), region.lines.end());
      }
      reads.push_back({&action, std::move(region), again});
      continue;
    }
    if (!std::exchange(owned, true)) value = value.clone(at::MemoryFormat::Contiguous);
    std::vector<int64_t> alive;
    for (size_t i = 0; i < action.place().positions.size(); ++i)
      if (span->LineOf(action.place().positions[i]) >= 0) alive.push_back(static_cast<int64_t>(i));
    intervention::Apply(action.edit->edit, {RowOf(action).lane->kept, alive}, region, value);
  }
  // Memory is never shared between runs: one with a slow reader would hold what another was charged for. Nor between captures: it would
  // be held once and charged twice. A layer's input is the memory of the output in front of it.
  const bool share = one_lane_ && MayShare(value, row != nullptr ? row->size() : rows->tokens(), static_cast<int64_t>(sent_lines.size())) &&
                     (!shared_ || shared_->lock().get() != value.storage().unsafeGetStorageImpl());
  if (share) shared_ = value.storage().getWeakStorageImpl();
  for (const Read& read : reads) {
    at::Tensor entries = intervention::Read(value, read.region);
    if (read.action->keep != nullptr) {
      const Lane& lane = *RowOf(*read.action).lane;
      at::Tensor& kept = lane.kept[read.action->keep->key];
      kept = entries.clone(at::MemoryFormat::Contiguous);
      if (const auto also = also_.find({&lane, read.action->keep->key}); also != also_.end()) *also->second = kept;
      continue;
    }
    const CapturePlan& capture = *read.action->capture;
    const LaneRow& row = RowOf(*read.action);
    if (capture.lens) {
      lens_.Add(row, capture, entries.clone(at::MemoryFormat::Contiguous));
      continue;
    }
    // What is kept is charged for what it is: it must not hold a batch's memory.
    if ((!share || read.again || capture.keep_seconds > 0) && !capture.reduced()) entries = entries.clone(at::MemoryFormat::Contiguous);
    row.lane->out.Capture(*row.plan, capture, entries);
  }
  return value;
}

}  // namespace fluoroscope::run
