#include "engine/resolve_interventions.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "engine/given_tensor.h"
#include "engine/handle_values.h"
#include "intervention/noise.h"

namespace fluoroscope::engine {
namespace {

using Kind = decltype(api::Intervention::kind);

// The rows a kind reads from.
std::vector<uint32_t> SourcesOf(const Kind& kind) {
  const auto of = [](const api::CopyFromRow& source) {
    return source.handle.empty() ? std::vector<uint32_t>{source.row} : std::vector<uint32_t>{};
  };
  if (const auto* copy = std::get_if<api::CopyFromRow>(&kind)) return of(*copy);
  if (const auto* mean = std::get_if<api::MeanOfRows>(&kind)) return mean->rows;
  if (const auto* interpolate = std::get_if<api::Interpolate>(&kind)) return of(interpolate->source);
  if (const auto* resample = std::get_if<api::Resample>(&kind)) return resample->rows;
  if (const auto* swap = std::get_if<api::SwapSubspace>(&kind)) return of(swap->source);
  return {};
}

// The one matrix that reads a place, [outputs, the site's units]. INVALID_ARGUMENT where there is none.
absl::StatusOr<at::Tensor> ReaderOf(const model::Model& model, const run::Place& place, const std::string& field) {
  const model::BlockWeights& block = model.weights.blocks[static_cast<size_t>(place.layer)];
  if (place.site == model::Site::kMlpPost) return block.mlp_out.weight;
  if (place.site == model::Site::kZ && place.heads.size() == 1)
    return block.attn_out.weight.narrow(1, place.heads.front() * model.arch.d_head, model.arch.d_head);
  return absl::InvalidArgumentError(field + ": no single matrix reads " + model::FullName(place.site, place.layer) +
                                    "; row space and null space are there for mlp.hook_post, and for attn.hook_z with exactly one head");
}

// Makes the edits of one intervention: first what all rows share, then row by row what all places of a row share, then place by place.
class Edits {
 public:
  Edits(const api::Intervention& intervention, PlanDraft& draft, const std::string& field)
      : select_(intervention.select), kind_(intervention.kind), draft_(draft), field_(field) {}

  absl::Status Prepare() {
    if (const auto* set = std::get_if<api::Set>(&kind_))
      return set->handle.id.empty() ? Take(GivenTensor(set->value, 1, draft_.model()))
                                    : Find(set->handle.id, field_ + ".set.from_handle.handle");
    if (const auto* add = std::get_if<api::Add>(&kind_))
      return add->handle.id.empty() ? Take(GivenTensor(add->value, add->scale, draft_.model()))
                                    : Find(add->handle.id, field_ + ".add.from_handle.handle");
    if (const auto* mean = std::get_if<api::MeanOfRows>(&kind_); mean != nullptr && !mean->handle.empty())
      return Find(mean->handle, field_ + ".mean.of_handle.handle");
    if (const auto* project = std::get_if<api::ProjectOut>(&kind_))
      return Take(GivenSubspace(project->directions, draft_.model(), field_ + ".project_out.directions"));
    if (const auto* swap = std::get_if<api::SwapSubspace>(&kind_))
      return Take(GivenSubspace(swap->directions, draft_.model(), field_ + ".swap_subspace.directions"));
    return absl::OkStatus();
  }

  // The row that is edited from here on, and its positions.
  absl::Status Begin(uint32_t row, const std::vector<int64_t>& positions) {
    row_ = row;
    ascending_ = CheckAscending(select_.positions, row, draft_, field_ + ".select.positions");
    if (const auto* copy = std::get_if<api::CopyFromRow>(&kind_)) return BeginSource(*copy, positions, field_ + ".copy");
    if (const auto* interpolate = std::get_if<api::Interpolate>(&kind_))
      return BeginSource(interpolate->source, positions, field_ + ".interpolate.source");
    if (const auto* swap = std::get_if<api::SwapSubspace>(&kind_))
      return BeginSource(swap->source, positions, field_ + ".swap_subspace.source");
    if (const auto* resample = std::get_if<api::Resample>(&kind_)) return Draw(*resample, positions);
    if (const auto* mean = std::get_if<api::MeanOfRows>(&kind_)) return BeginMean(*mean);
    return absl::OkStatus();
  }

  absl::StatusOr<intervention::Edit> Make(const run::Place& place) {
    return std::visit([&](const auto& kind) { return MakeKind(kind, place); }, kind_);
  }

 private:
  using Made = absl::StatusOr<intervention::Edit>;

  absl::Status Take(absl::StatusOr<at::Tensor> tensor) {
    FS_ASSIGN_OR_RETURN(tensor_, std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status Find(const std::string& id, const std::string& path) {
    FS_ASSIGN_OR_RETURN(handle_, draft_.handles().Find(id, path));
    return absl::OkStatus();
  }

  // As BeginSource, for values of a handle.
  absl::Status BeginHandle(const api::CopyFromRow& copy, const std::vector<int64_t>& target, const std::string& path) {
    if (handle_ == nullptr) FS_RETURN_IF_ERROR(Find(copy.handle, path + ".handle"));
    source_positions_ = target;
    if (!copy.positions) return absl::OkStatus();
    FS_RETURN_IF_ERROR(ascending_);
    FS_RETURN_IF_ERROR(CheckAscendingIn(*handle_, draft_.model(), *copy.positions, path + ".positions"));
    FS_ASSIGN_OR_RETURN(source_positions_, HandlePositions(*handle_, draft_.model(), copy.positions, path + ".positions"));
    if (source_positions_.size() == target.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(field_ + " copies from handle " + copy.handle + " to row " + std::to_string(row_) + ": " +
                                      std::to_string(source_positions_.size()) + " source positions for " + std::to_string(target.size()) +
                                      " target positions; the counts must agree");
  }

  // Which row and positions the edits of this row read. `path` is the source's field.
  absl::Status BeginSource(const api::CopyFromRow& copy, const std::vector<int64_t>& target, const std::string& path) {
    if (!copy.handle.empty()) return BeginHandle(copy, target, path);
    const std::string rows = "row " + std::to_string(copy.row) + " to row " + std::to_string(row_);
    if (row_ == copy.row) return absl::InvalidArgumentError(field_ + " copies " + rows + "; a row cannot be its own source");
    const int64_t length = draft_.row(copy.row).length();
    source_row_ = copy.row;
    source_positions_ = target;
    if (copy.positions) {
      FS_ASSIGN_OR_RETURN(source_positions_, draft_.PositionsOf(copy.positions, copy.row, path + ".positions"));
      FS_RETURN_IF_ERROR(ascending_);
      FS_RETURN_IF_ERROR(CheckAscending(copy.positions, copy.row, draft_, path + ".positions"));
    } else if (target.back() >= length) {
      return absl::InvalidArgumentError(field_ + " copies " + rows + " at position " + std::to_string(target.back()) +
                                        ", but the source has only " + std::to_string(length) +
                                        " tokens; for prompts of different length say which of its positions to copy (" + path +
                                        ".positions, in Python source_positions)");
    }
    if (source_positions_.size() != target.size())
      return absl::InvalidArgumentError(field_ + " copies " + rows + ": " + std::to_string(source_positions_.size()) +
                                        " source positions for " + std::to_string(target.size()) +
                                        " target positions; the counts must agree");
    draft_.ReadsFrom(row_, copy.row);
    return absl::OkStatus();
  }

  absl::Status Draw(const api::Resample& resample, const std::vector<int64_t>& target) {
    std::vector<uint32_t> others = resample.rows;
    std::erase(others, row_);
    if (others.empty())
      return absl::InvalidArgumentError(field_ + ".resample.rows has no row but " + std::to_string(row_) +
                                        ", and a row cannot be its own source");
    // The remainder prefers small numbers by less than one in a million for every list that a request can hold.
    const uint32_t drawn = intervention::Philox({row_, 0, 0, 0}, resample.seed)[0];
    return BeginSource({others[drawn % others.size()], resample.positions}, target, field_ + ".resample");
  }

  absl::Status BeginMean(const api::MeanOfRows& mean) {
    for (const uint32_t source : mean.rows) {
      if (source == row_)
        return absl::InvalidArgumentError(field_ + ".mean: row " + std::to_string(source) +
                                          " would be replaced by a mean that it is part of; give the reference as rows of their own");
      draft_.ReadsFrom(row_, source);
    }
    return absl::OkStatus();
  }

  static std::string NameOf(const run::Place& place) { return model::FullName(place.site, place.layer); }

  absl::Status CheckKeys(uint32_t source, const run::Place& place) {
    const int64_t own = draft_.row(row_).length(), length = draft_.row(source).length();
    if (model::SpecOf(place.site).axes.back() != model::Axis::kKey || own == length) return absl::OkStatus();
    return absl::InvalidArgumentError(field_ + ": " + NameOf(place) + " has one entry per key token, but row " + std::to_string(source) +
                                      " to row " + std::to_string(row_) + " have " + std::to_string(length) + " and " +
                                      std::to_string(own) + " tokens");
  }

  absl::Status CheckHandleKeys(const run::Place& place) {
    if (handle_ == nullptr || model::SpecOf(place.site).axes.back() != model::Axis::kKey) return absl::OkStatus();
    const int64_t own = draft_.row(row_).length(), length = handle_->info().row_length;
    if (own == length) return absl::OkStatus();
    return absl::InvalidArgumentError(field_ + ": " + NameOf(place) + " has one entry per key token, but handle " + handle_->info().id +
                                      " to row " + std::to_string(row_) + " have " + std::to_string(length) + " and " +
                                      std::to_string(own) + " tokens");
  }

  // The handle's values of the place, at these positions of its own.
  absl::StatusOr<intervention::Kept> FromHandle(const run::Place& place, const std::vector<int64_t>& positions) {
    FS_RETURN_IF_ERROR(
        CheckHandle(*handle_, draft_.model(), place.site, place.layer, /*minus_infinity=*/place.site == model::Site::kAttnScores, field_));
    FS_RETURN_IF_ERROR(CheckHandleKeys(place));
    FS_ASSIGN_OR_RETURN(HandlePart part,
                        PartOf(*handle_, draft_.model(), place.site, place.layer, positions, place.heads, place.units, field_));
    return draft_.KeepHandle(handle_, std::move(part), field_);
  }

  // A tensor for Set and Add. The edits of all rows at a place share it.
  absl::StatusOr<at::Tensor> GivenBy(const api::HandleValues& from, double scale, const run::Place& place, const std::string& path) {
    if (from.id.empty()) return tensor_;
    at::Tensor& shared = given_[{place.site, place.layer}];
    if (shared.defined()) return shared;
    FS_RETURN_IF_ERROR(CheckHandle(*handle_, draft_.model(), place.site, place.layer, /*minus_infinity=*/false, field_));
    FS_ASSIGN_OR_RETURN(const std::vector<int64_t> positions,
                        HandlePositions(*handle_, draft_.model(), from.positions, path + ".positions"));
    FS_ASSIGN_OR_RETURN(const HandlePart part,
                        PartOf(*handle_, draft_.model(), place.site, place.layer, positions, place.heads, place.units, field_));
    uint64_t copied = 0;
    shared = FloatsOf(handle_, part, scale, copied).to(draft_.model().model->device);
    draft_.AddGivenBytes(copied);
    return shared;
  }

  absl::StatusOr<intervention::Kept> Source(const run::Place& place) {
    if (handle_ != nullptr) return FromHandle(place, source_positions_);
    FS_RETURN_IF_ERROR(CheckKeys(source_row_, place));
    run::Place there = place;
    there.positions = source_positions_;
    return draft_.Keep(source_row_, there, field_);
  }

  // As Source, for kinds that calculate with it: the score of a key that the source's query cannot see is no number.
  absl::StatusOr<intervention::Kept> NumericSource(const run::Place& place) {
    if (place.site == model::Site::kAttnScores && source_positions_ != place.positions)
      return absl::InvalidArgumentError(field_ + ": at " + NameOf(place) +
                                        " the source's positions must be the target's, so that both see the same keys");
    return Source(place);
  }

  absl::Status CheckBasis(const api::Chunk& directions, const run::Place& place, const std::string& kind) {
    return CheckDirections(directions.shape, draft_.ShapeOf(place, row_).back(), NameOf(place), field_ + "." + kind + ".directions");
  }

  Made MakeKind(const api::CopyFromRow&, const run::Place& place) {
    FS_ASSIGN_OR_RETURN(const intervention::Kept key, Source(place));
    return intervention::Copy{key};
  }
  Made MakeKind(const api::Resample&, const run::Place& place) {
    FS_ASSIGN_OR_RETURN(const intervention::Kept key, Source(place));
    return intervention::Copy{key};
  }
  Made MakeKind(const api::Zero&, const run::Place&) { return intervention::Zero{}; }
  Made MakeKind(const api::MeanOfRows& mean, const run::Place& place) {
    for (const uint32_t source : mean.rows) FS_RETURN_IF_ERROR(CheckKeys(source, place));
    FS_RETURN_IF_ERROR(CheckHandleKeys(place));
    // The mean at a hook is the same whichever row it is for.
    auto& shared = means_[{place.site, place.layer}];
    if (shared != nullptr) return intervention::Mean{shared};
    auto reference = std::make_shared<intervention::Mean::Reference>();
    if (handle_ != nullptr) {
      FS_ASSIGN_OR_RETURN(const std::vector<int64_t> positions,
                          HandlePositions(*handle_, draft_.model(), mean.positions, field_ + ".mean.of_handle.positions"));
      FS_ASSIGN_OR_RETURN(const intervention::Kept key, FromHandle(place, positions));
      reference->sources.push_back(key);
    }
    for (const uint32_t source : mean.rows) {
      run::Place there = place;
      FS_ASSIGN_OR_RETURN(there.positions, draft_.PositionsOf(mean.positions, source, field_ + ".mean.of_rows.positions"));
      FS_ASSIGN_OR_RETURN(const intervention::Kept key, draft_.Keep(source, there, field_));
      reference->sources.push_back(key);
    }
    shared = std::move(reference);
    return intervention::Mean{shared};
  }
  Made MakeKind(const api::Set& set, const run::Place& place) {
    FS_ASSIGN_OR_RETURN(const at::Tensor tensor, GivenBy(set.handle, 1, place, field_ + ".set.from_handle"));
    FS_RETURN_IF_ERROR(CheckFits(tensor, draft_.ShapeOf(place, row_), place, select_, ascending_, field_));
    return intervention::Set{tensor};
  }
  Made MakeKind(const api::Add& add, const run::Place& place) {
    FS_ASSIGN_OR_RETURN(const at::Tensor tensor, GivenBy(add.handle, add.scale, place, field_ + ".add.from_handle"));
    FS_RETURN_IF_ERROR(CheckFits(tensor, draft_.ShapeOf(place, row_), place, select_, ascending_, field_));
    return intervention::Add{tensor};
  }
  Made MakeKind(const api::Scale& scale, const run::Place&) { return intervention::Scale{scale.factor}; }
  Made MakeKind(const api::Interpolate& interpolate, const run::Place& place) {
    FS_ASSIGN_OR_RETURN(const intervention::Kept key, NumericSource(place));
    return intervention::Interpolate{key, interpolate.weight};
  }
  Made MakeKind(const api::ProjectOut& project, const run::Place& place) {
    FS_RETURN_IF_ERROR(CheckBasis(project.directions, place, "project_out"));
    return intervention::ProjectOut{tensor_};
  }
  Made MakeKind(const api::SwapSubspace& swap, const run::Place& place) {
    FS_RETURN_IF_ERROR(CheckBasis(swap.directions, place, "swap_subspace"));
    FS_ASSIGN_OR_RETURN(const intervention::Kept key, NumericSource(place));
    if (swap.part == api::SwapSubspace::Part::kWhole) return intervention::SwapSubspace{key, tensor_, nullptr};
    auto& shared = parts_[{place.site, place.layer}];
    if (shared == nullptr) {
      FS_ASSIGN_OR_RETURN(at::Tensor reader, ReaderOf(*draft_.model().model, place, field_ + ".swap_subspace.part"));
      const bool null_space = swap.part == api::SwapSubspace::Part::kNullSpace;
      shared = std::make_shared<intervention::ReadPart>(intervention::ReadPart{std::move(reader), place.units, null_space, /*basis=*/{}});
    }
    return intervention::SwapSubspace{key, tensor_, shared};
  }
  Made MakeKind(const api::Noise& noise, const run::Place& place) {
    FS_RETURN_IF_ERROR(draft_.CountPositions(place.positions.size(), field_));
    const uint32_t number = static_cast<uint32_t>(place.site) | static_cast<uint32_t>(place.layer) << 8;
    return intervention::Noise{noise.stddev, noise.seed, row_, number, place.positions};
  }

  const api::Selection& select_;
  const Kind& kind_;
  PlanDraft& draft_;
  const std::string& field_;
  at::Tensor tensor_;    // given with the intervention, on the model's device
  StoredHandle handle_;  // the source, when it is one
  // What the edits of all rows at a place (site and layer) share.
  std::map<std::pair<model::Site, int64_t>, std::shared_ptr<const intervention::Mean::Reference>> means_;
  std::map<std::pair<model::Site, int64_t>, std::shared_ptr<const intervention::ReadPart>> parts_;
  std::map<std::pair<model::Site, int64_t>, at::Tensor> given_;
  // Of the row that is edited.
  uint32_t row_ = 0, source_row_ = 0;
  std::vector<int64_t> source_positions_;
  absl::Status ascending_;  // whether its positions are written in ascending order
};

// A copy between rows with the same tokens is often a mistake; it is none when it freezes a place against other interventions.
void WarnOfSameTokensIn(const api::Intervention& intervention, const std::vector<uint32_t>& rows, PlanDraft& draft,
                        const std::string& field) {
  const auto* copy = std::get_if<api::CopyFromRow>(&intervention.kind);
  if (copy == nullptr || !copy->handle.empty()) return;
  for (const uint32_t row : rows)
    if (!draft.row(row).start && draft.row(row).ids == draft.row(copy->row).ids)
      draft.Warn(field + " copies row " + std::to_string(copy->row) + " to row " + std::to_string(row) + ", but both have the same tokens");
}

}  // namespace

absl::Status ResolveIntervention(const api::Intervention& intervention, PlanDraft& draft, const std::string& field) {
  const api::Selection& select = intervention.select;
  FS_ASSIGN_OR_RETURN(const std::vector<PlanDraft::Part> parts, draft.PartsOf(select, /*for_edit=*/true, field + ".select"));
  FS_ASSIGN_OR_RETURN(std::vector<uint32_t> rows, ResolveRows(select.rows, draft.rows(), field + ".select.rows"));
  const std::vector<uint32_t> sources = SourcesOf(intervention.kind);
  for (const uint32_t source : sources)
    if (source >= draft.rows())
      return absl::InvalidArgumentError(field + ".copy.row is " + std::to_string(source) + "; the request has " +
                                        std::to_string(draft.rows()) + " prompts");
  // "All rows" means all others.
  if (select.rows.empty())
    std::erase_if(rows, [&](uint32_t row) { return std::find(sources.begin(), sources.end(), row) != sources.end(); });
  if (rows.empty()) return absl::InvalidArgumentError(field + " matches no row: every prompt is a source of it");
  Edits edits(intervention, draft, field);
  FS_RETURN_IF_ERROR(edits.Prepare());
  for (const uint32_t row : rows) {
    FS_ASSIGN_OR_RETURN(const std::vector<int64_t> positions, draft.PositionsOf(select.positions, row, field + ".select.positions"));
    FS_RETURN_IF_ERROR(edits.Begin(row, positions));
    for (const PlanDraft::Part& part : parts) {
      FS_RETURN_IF_ERROR(draft.CountEdit(field));
      FS_RETURN_IF_ERROR(draft.CountPositions(positions.size(), field));
      run::EditPlan edit;
      FS_ASSIGN_OR_RETURN(edit.place, draft.PlaceOf(part, row, positions, field + ".select"));
      FS_ASSIGN_OR_RETURN(edit.edit, edits.Make(edit.place));
      draft.row(row).edits.push_back(std::move(edit));
    }
  }
  WarnOfSameTokensIn(intervention, rows, draft, field);
  return absl::OkStatus();
}

}  // namespace fluoroscope::engine
