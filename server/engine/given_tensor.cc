#include "engine/given_tensor.h"

#include <algorithm>

#include "base/status_macros.h"
#include "intervention/subspace.h"
#include "tensor/chunk.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

// More than anybody projects out at once; their basis is made on the prepare thread, in time n^2 * units.
constexpr int64_t kMaxDirections = 256;

std::string Text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

absl::Status NotAscending(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError(field + " must be written in ascending order, each once, because " + what +
                                    " are matched one by one and taken in that order");
}

bool Ascending(const std::vector<uint32_t>& numbers) {
  return std::adjacent_find(numbers.begin(), numbers.end(), std::greater_equal<>()) == numbers.end();
}

}  // namespace

absl::StatusOr<at::Tensor> GivenTensor(const api::Chunk& chunk, double scale, const LoadedModel& model) {
  FS_ASSIGN_OR_RETURN(at::Tensor tensor, tensor::FromChunk(chunk));
  return tensor::GuardTorch([&]() -> absl::StatusOr<at::Tensor> {
    if (scale != 1) tensor.mul_(scale);
    return tensor.to(model.model->device);
  });
}

absl::StatusOr<at::Tensor> GivenSubspace(const api::Chunk& directions, const LoadedModel& model, const std::string& field) {
  if (directions.shape.size() != 2 || directions.shape[0] > kMaxDirections || directions.shape[0] > directions.shape[1])
    return absl::InvalidArgumentError(field + " is " + Text(directions.shape) + ": at most " + std::to_string(kMaxDirections) +
                                      " directions are allowed, and never more than the space has dimensions");
  FS_ASSIGN_OR_RETURN(const at::Tensor given, tensor::FromChunk(directions));
  return tensor::GuardTorch([&]() -> absl::StatusOr<at::Tensor> {
    const at::Tensor basis = intervention::OrthonormalBasis(given);
    if (basis.size(0) == 0) return absl::InvalidArgumentError(field + " are all zero: they span nothing");
    return basis.to(model.model->device);
  });
}

absl::Status CheckDirections(const std::vector<int64_t>& shape, int64_t units, const std::string& site, const std::string& field) {
  if (shape.size() == 2 && shape[1] == units) return absl::OkStatus();
  return absl::InvalidArgumentError(field + " is " + Text(shape) + "; at " + site + " it must be [n, " + std::to_string(units) +
                                    "], the chosen part of the last axis");
}

absl::Status CheckAscending(const std::optional<api::Positions>& positions, uint32_t row, PlanDraft& draft, const std::string& field) {
  if (!positions) return absl::OkStatus();
  int64_t before = -1;
  for (const api::PositionItem& item : *positions) {
    FS_ASSIGN_OR_RETURN(const std::vector<int64_t> resolved, draft.PositionsOf(api::Positions{item}, row, field));
    if (resolved.front() <= before) return NotAscending(field, "positions");
    before = resolved.back();
  }
  return absl::OkStatus();
}

absl::Status CheckFits(const at::Tensor& tensor, const std::vector<int64_t>& shape, const run::Place& place, const api::Selection& select,
                       const absl::Status& ascending_positions, const std::string& field) {
  const std::vector<int64_t> given = tensor.sizes().vec();
  bool fits = given.size() <= shape.size();
  for (size_t i = 0; fits && i < given.size(); ++i) {
    const int64_t size = given[given.size() - 1 - i];
    fits = size == 1 || size == shape[shape.size() - 1 - i];
  }
  if (!fits)
    return absl::InvalidArgumentError(field + ": the tensor is " + Text(given) + ", but the chosen part of " +
                                      model::FullName(place.site, place.layer) + " is " + Text(shape) +
                                      "; it must be of that shape or broadcast to it as in numpy");
  const auto has_own = [&](int axis) {
    const int64_t from_behind = static_cast<int64_t>(shape.size()) - axis;
    return axis >= 0 && from_behind <= tensor.dim() && tensor.size(-from_behind) > 1;
  };
  const model::SiteSpec& spec = model::SpecOf(place.site);
  if (has_own(model::HeadAxis(spec)) && !Ascending(select.heads)) return NotAscending(field + ".select.heads", "heads");
  if (has_own(static_cast<int>(shape.size()) - 1) && !Ascending(select.units)) return NotAscending(field + ".select.units", "units");
  return has_own(model::PositionAxis(spec)) ? ascending_positions : absl::OkStatus();
}

}  // namespace fluoroscope::engine
