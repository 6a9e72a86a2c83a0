#include "engine/plan_draft.h"

#include <numeric>

#include "base/status_macros.h"
#include "engine/waves.h"

namespace fluoroscope::engine {
namespace {

// Edits of single places (a site of a row in a layer) that one request may ask for.
constexpr size_t kMaxEdits = 1 << 16;
// Positions of all captures, edits and metrics together: a plan lists them, and that memory is counted by nobody.
constexpr size_t kMaxPlannedPositions = size_t{1} << 26;

}  // namespace

void PlanDraft::AddRow(std::vector<int64_t> ids, std::optional<run::StartPlan> start) {
  run::RowPlan row;
  row.start = std::move(start);
  row.index = static_cast<uint32_t>(plan_.rows.size());
  row.ids = std::move(ids);
  plan_.rows.push_back(std::move(row));
  sources_.emplace_back();
}

absl::StatusOr<std::vector<int64_t>> PlanDraft::PositionsOf(const std::optional<api::Positions>& positions, uint32_t index,
                                                            const std::string& field) {
  const std::vector<int64_t>& ids = row(index).ids;
  if (positions) return ResolvePositions(model_, *positions, ids, field + " (row " + std::to_string(index) + ")");
  std::vector<int64_t> all(ids.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

absl::StatusOr<std::vector<PlanDraft::Part>> PlanDraft::PartsOf(const api::Selection& select, bool for_edit,
                                                                const std::string& field) const {
  FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> hooks, ResolveSites(model_, select, for_edit, field));
  std::vector<Part> parts;
  for (const HookPoint& hook : hooks) {
    Part part{hook, {}, {}};
    FS_ASSIGN_OR_RETURN(part.heads, ResolveHeads(model_, select.heads, hook, field));
    FS_ASSIGN_OR_RETURN(part.units, ResolveUnits(model_, select.units, hook, field));
    parts.push_back(std::move(part));
  }
  return parts;
}

absl::StatusOr<run::Place> PlanDraft::PlaceOf(const Part& part, uint32_t row, std::vector<int64_t> positions, const std::string& field) {
  FS_RETURN_IF_ERROR(CheckReached(part.hook, row, field));
  const int64_t units = LastAxis(part.hook.site, row);
  if (!part.units.empty() && part.units.back() >= units)
    return absl::InvalidArgumentError(field + ".units: key " + std::to_string(part.units.back()) + " does not exist; row " +
                                      std::to_string(row) + " has " + std::to_string(units) + " tokens");
  return run::Place{part.hook.site, part.hook.layer, std::move(positions), part.heads, part.units};
}

absl::Status PlanDraft::CheckReached(const HookPoint& hook, uint32_t index, const std::string& field) {
  const std::optional<run::StartPlan>& start = row(index).start;
  if (!start) return absl::OkStatus();
  const model::Site first = start->at.part == model::Part::kMlp ? model::Site::kResidMid : model::Site::kResidPre;
  const model::Part part = model::SpecOf(hook.site).part;
  // Sites are numbered in the order in which a forward pass reaches them.
  const bool behind = part == model::Part::kFinal ||
                      (part != model::Part::kEmbedding && std::pair(hook.layer, hook.site) >= std::pair(start->at.layer, first));
  if (behind) return absl::OkStatus();
  return absl::InvalidArgumentError(field + ": row " + std::to_string(index) + " starts at " + model::FullName(first, start->at.layer) +
                                    ", so it has no " + model::FullName(hook.site, hook.layer) + ", which lies in front of it");
}

std::vector<int64_t> PlanDraft::ShapeOf(const run::Place& place, uint32_t row) {
  std::vector<int64_t> shape;
  const model::SiteSpec& spec = model::SpecOf(place.site);
  for (const model::Axis axis : spec.axes) {
    const bool is_head = axis == model::Axis::kHead || axis == model::Axis::kKvHead;
    if (axis == model::Axis::kPosition || axis == model::Axis::kQuery) {
      shape.push_back(static_cast<int64_t>(place.positions.size()));
    } else if (is_head && !place.heads.empty()) {
      shape.push_back(static_cast<int64_t>(place.heads.size()));
    } else {
      shape.push_back(axis == model::Axis::kKey ? this->row(row).length() : model::SizeOf(axis, arch()));
    }
  }
  if (!place.units.empty()) shape.back() = static_cast<int64_t>(place.units.size());
  return shape;
}

int64_t PlanDraft::LastAxis(model::Site site, uint32_t row) {
  const model::Axis last = model::SpecOf(site).axes.back();
  return last == model::Axis::kKey ? this->row(row).length() : model::SizeOf(last, arch());
}

absl::StatusOr<size_t> PlanDraft::Keep(uint32_t source, const run::Place& place, const std::string& field) {
  FS_RETURN_IF_ERROR(CheckReached({place.site, place.layer}, source, field));
  const auto [it, is_new] =
      places_.try_emplace(std::make_tuple(source, place.site, place.layer, place.positions, place.heads, place.units), plan_.kept_values);
  if (!is_new) return it->second;
  FS_RETURN_IF_ERROR(CountPositions(place.positions.size(), field));
  row(source).keeps.push_back({place, plan_.kept_values});
  return plan_.kept_values++;
}

absl::StatusOr<size_t> PlanDraft::KeepHandle(const StoredHandle& handle, HandlePart part, const std::string& field) {
  const auto [it, is_new] = handle_parts_.try_emplace(
      std::make_tuple(handle->info().id, part.place.positions, part.place.heads, part.place.units), plan_.kept_values);
  if (!is_new) return it->second;
  FS_RETURN_IF_ERROR(CountPositions(part.place.positions.size(), field));
  run::GivenPlan given{ViewOf(handle), std::move(part.place), plan_.kept_values, 0, handle->content().sha256};
  const bool on_device = !model_.model->device.is_cpu();
  if (!part.whole || on_device) {
    const auto share = [](const std::vector<int64_t>& chosen, int64_t size) {
      return chosen.empty() ? 1.0 : static_cast<double>(chosen.size()) / static_cast<double>(size);
    };
    const model::SiteSpec& spec = model::SpecOf(given.part.site);
    double bytes = static_cast<double>(handle->info().byte_size) * share(given.part.positions, given.value.size(model::PositionAxis(spec)));
    if (!given.part.heads.empty()) bytes *= share(given.part.heads, given.value.size(model::HeadAxis(spec)));
    given.bytes = static_cast<uint64_t>(bytes * share(given.part.units, given.value.size(-1)));
  }
  plan_.given.push_back(std::move(given));
  return plan_.kept_values++;
}

absl::StatusOr<size_t> PlanDraft::KeepLogits(uint32_t source, const std::vector<int64_t>& positions, bool log_probabilities,
                                             const std::string& field) {
  const auto [it, is_new] = logits_.try_emplace(std::make_tuple(source, log_probabilities, positions), plan_.kept_values);
  if (!is_new) return it->second;
  FS_RETURN_IF_ERROR(CountPositions(positions.size(), field));
  row(source).keep_logits.push_back({positions, log_probabilities, plan_.kept_values});
  return plan_.kept_values++;
}

absl::Status PlanDraft::CountPositions(size_t count, const std::string& field) {
  positions_ += count;
  if (positions_ <= kMaxPlannedPositions) return absl::OkStatus();
  return absl::ResourceExhaustedError(field + ": captures, interventions and metrics name " + std::to_string(positions_) +
                                      " positions together; the limit is " + std::to_string(kMaxPlannedPositions) +
                                      ". Ask for fewer sites, rows or positions at a time");
}

absl::Status PlanDraft::CountEdit(const std::string& field) {
  if (++edits_ <= kMaxEdits) return absl::OkStatus();
  return absl::ResourceExhaustedError("interventions edit more than " + std::to_string(kMaxEdits) + " places (the " +
                                      std::to_string(edits_) + "th at " + field + "), the limit for a request");
}

absl::StatusOr<run::RunPlan> PlanDraft::Finish() {
  FS_ASSIGN_OR_RETURN(plan_.waves, Waves(sources_));
  plan_.Finish();
  return std::move(plan_);
}

}  // namespace fluoroscope::engine
