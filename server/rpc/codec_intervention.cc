#include "rpc/codec_intervention.h"

#include <cmath>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_handles.h"
#include "rpc/codec_plan.h"
#include "rpc/codec_tensor.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

absl::StatusOr<double> Finite(double value, const FieldPath& path) {
  if (!std::isfinite(value)) return InvalidAt(path, "is ", value, "; it must be finite");
  return value;
}

absl::StatusOr<uint32_t> DecodeRow(uint32_t row, size_t prompts, const FieldPath& path) {
  if (row >= prompts) return InvalidAt(path, "is ", row, "; the request has ", prompts, " prompts, counted from 0");
  return row;
}

absl::StatusOr<std::vector<uint32_t>> DecodeSources(const google::protobuf::RepeatedField<uint32_t>& rows, size_t prompts,
                                                    const FieldPath& path) {
  if (rows.empty()) return InvalidAt({&path, "rows"}, "is empty: give at least one row to take values from");
  return DecodeRows(rows, prompts, path);
}

absl::StatusOr<std::optional<api::Positions>> DecodeOptionalPositions(bool given, const pb::Positions& positions, const FieldPath& path) {
  if (!given) return std::optional<api::Positions>();
  FS_ASSIGN_OR_RETURN(api::Positions decoded, DecodePositions(positions, {&path, "positions"}));
  return std::optional(std::move(decoded));
}

// One for each kind.
using InterventionKind = decltype(api::Intervention::kind);

absl::StatusOr<api::CopyFromRow> DecodeCopy(const pb::CopyFromRow& copy, size_t prompts, const FieldPath& path) {
  api::CopyFromRow out;
  FS_ASSIGN_OR_RETURN(out.positions, DecodeOptionalPositions(copy.has_positions(), copy.positions(), path));
  if (!copy.handle().empty()) {
    if (copy.row() != 0) return InvalidAt(path, "has row ", copy.row(), " and a handle; only one of them can be the source");
    FS_ASSIGN_OR_RETURN(out.handle, DecodeHandleId(copy.handle(), {&path, "handle"}));
    return out;
  }
  FS_ASSIGN_OR_RETURN(out.row, DecodeRow(copy.row(), prompts, {&path, "row"}));
  return out;
}

absl::StatusOr<api::HandleValues> DecodeHandleValues(const pb::HandleValues& values, const FieldPath& path) {
  api::HandleValues out;
  FS_ASSIGN_OR_RETURN(out.id, DecodeHandleId(values.handle(), {&path, "handle"}));
  FS_ASSIGN_OR_RETURN(out.positions, DecodeOptionalPositions(values.has_positions(), values.positions(), path));
  return out;
}

absl::StatusOr<InterventionKind> DecodeMean(const pb::Mean& mean, size_t prompts, const FieldPath& path) {
  if (mean.has_value()) {
    FS_ASSIGN_OR_RETURN(api::Chunk value, DecodeFloats(mean.value(), {&path, "value"}));
    return api::Set{std::move(value)};
  }
  api::MeanOfRows out;
  if (mean.has_of_handle()) {
    FS_ASSIGN_OR_RETURN(api::HandleValues values, DecodeHandleValues(mean.of_handle(), {&path, "of_handle"}));
    out.handle = std::move(values.id);
    out.positions = std::move(values.positions);
    return out;
  }
  const FieldPath rows_path{&path, "of_rows"};
  FS_ASSIGN_OR_RETURN(out.rows, DecodeSources(mean.of_rows().rows(), prompts, rows_path));
  FS_ASSIGN_OR_RETURN(out.positions, DecodeOptionalPositions(mean.of_rows().has_positions(), mean.of_rows().positions(), rows_path));
  return out;
}

// Set and Add take a tensor or what a handle holds.
template <typename Message, typename Target>
absl::Status DecodeGiven(const Message& from, Target& to, const FieldPath& path) {
  if (from.has_from_handle()) {
    if (from.has_value()) return InvalidAt(path, "has value and from_handle; only one of them can be given");
    FS_ASSIGN_OR_RETURN(to.handle, DecodeHandleValues(from.from_handle(), {&path, "from_handle"}));
    return absl::OkStatus();
  }
  FS_ASSIGN_OR_RETURN(to.value, DecodeFloats(from.value(), {&path, "value"}));
  return absl::OkStatus();
}

absl::StatusOr<InterventionKind> DecodeSet(const pb::Set& set, const FieldPath& path) {
  api::Set out;
  FS_RETURN_IF_ERROR(DecodeGiven(set, out, path));
  return out;
}

absl::StatusOr<InterventionKind> DecodeAdd(const pb::Add& add, const FieldPath& path) {
  api::Add out;
  FS_RETURN_IF_ERROR(DecodeGiven(add, out, path));
  if (add.has_scale()) {
    FS_ASSIGN_OR_RETURN(out.scale, Finite(add.scale(), {&path, "scale"}));
  }
  return out;
}

absl::StatusOr<InterventionKind> DecodeScale(const pb::Scale& scale, const FieldPath& path) {
  FS_ASSIGN_OR_RETURN(const double factor, Finite(scale.factor(), {&path, "factor"}));
  return api::Scale{factor};
}

absl::StatusOr<InterventionKind> DecodeInterpolate(const pb::Interpolate& interpolate, size_t prompts, const FieldPath& path) {
  api::Interpolate out;
  FS_ASSIGN_OR_RETURN(out.source, DecodeCopy(interpolate.source(), prompts, {&path, "source"}));
  FS_ASSIGN_OR_RETURN(out.weight, Finite(interpolate.weight(), {&path, "weight"}));
  return out;
}

absl::StatusOr<InterventionKind> DecodeResample(const pb::Resample& resample, size_t prompts, const FieldPath& path) {
  api::Resample out{.rows = {}, .seed = resample.seed(), .positions = {}};
  FS_ASSIGN_OR_RETURN(out.rows, DecodeSources(resample.rows(), prompts, path));
  FS_ASSIGN_OR_RETURN(out.positions, DecodeOptionalPositions(resample.has_positions(), resample.positions(), path));
  return out;
}

absl::StatusOr<InterventionKind> DecodeProjectOut(const pb::ProjectOut& project_out, const FieldPath& path) {
  FS_ASSIGN_OR_RETURN(api::Chunk directions, DecodeDirections(project_out.directions(), {&path, "directions"}));
  return api::ProjectOut{std::move(directions)};
}

absl::StatusOr<InterventionKind> DecodeSwap(const pb::SwapSubspace& swap, size_t prompts, const FieldPath& path) {
  api::SwapSubspace out;
  FS_ASSIGN_OR_RETURN(out.source, DecodeCopy(swap.source(), prompts, {&path, "source"}));
  FS_ASSIGN_OR_RETURN(out.directions, DecodeDirections(swap.directions(), {&path, "directions"}));
  if (swap.part() == pb::SwapSubspace::PART_ROW_SPACE) out.part = api::SwapSubspace::Part::kRowSpace;
  if (swap.part() == pb::SwapSubspace::PART_NULL_SPACE) out.part = api::SwapSubspace::Part::kNullSpace;
  return out;
}

absl::StatusOr<InterventionKind> DecodeNoise(const pb::Noise& noise, const FieldPath& path) {
  FS_ASSIGN_OR_RETURN(const double stddev, Finite(noise.stddev(), {&path, "stddev"}));
  if (stddev < 0) return InvalidAt({&path, "stddev"}, "is ", stddev, "; it must not be negative");
  return api::Noise{stddev, noise.seed()};
}

absl::StatusOr<InterventionKind> DecodeKind(const pb::Intervention& from, size_t prompts, const FieldPath& path) {
  switch (from.kind_case()) {
    case pb::Intervention::kCopy:
      return DecodeCopy(from.copy(), prompts, {&path, "copy"});
    case pb::Intervention::kZero:
      return api::Zero{};
    case pb::Intervention::kMean:
      return DecodeMean(from.mean(), prompts, {&path, "mean"});
    case pb::Intervention::kSet:
      return DecodeSet(from.set(), {&path, "set"});
    case pb::Intervention::kAdd:
      return DecodeAdd(from.add(), {&path, "add"});
    case pb::Intervention::kScale:
      return DecodeScale(from.scale(), {&path, "scale"});
    case pb::Intervention::kInterpolate:
      return DecodeInterpolate(from.interpolate(), prompts, {&path, "interpolate"});
    case pb::Intervention::kResample:
      return DecodeResample(from.resample(), prompts, {&path, "resample"});
    case pb::Intervention::kProjectOut:
      return DecodeProjectOut(from.project_out(), {&path, "project_out"});
    case pb::Intervention::kSwapSubspace:
      return DecodeSwap(from.swap_subspace(), prompts, {&path, "swap_subspace"});
    case pb::Intervention::kNoise:
      return DecodeNoise(from.noise(), {&path, "noise"});
    case pb::Intervention::KIND_NOT_SET:
      break;
  }
  return InvalidAt({&path, "kind"}, "is empty");
}

}  // namespace

absl::StatusOr<api::Intervention> DecodeIntervention(const pb::Intervention& intervention, size_t prompts, const FieldPath& path) {
  api::Intervention out;
  FS_ASSIGN_OR_RETURN(out.select, DecodeSelection(intervention.select(), prompts, {&path, "select"}));
  FS_ASSIGN_OR_RETURN(out.kind, DecodeKind(intervention, prompts, path));
  return out;
}

}  // namespace fluoroscope::rpc
