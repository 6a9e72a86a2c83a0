#include "engine/handle_values.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/resolve.h"
#include "run/sizes.h"
#include "tensor/dtype.h"

namespace fluoroscope::engine {
namespace {

absl::Status Invalid(const std::string& field, const store::Stored& handle, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": handle ", handle.info().id, " ", what));
}

// "0, 1, 2, ... (11 in all)"
template <typename T>
std::string Some(const std::vector<T>& numbers) {
  constexpr size_t kShown = 8;
  if (numbers.size() <= kShown) return absl::StrJoin(numbers, ", ");
  const std::vector<T> first(numbers.begin(), numbers.begin() + kShown);
  return absl::StrCat(absl::StrJoin(first, ", "), ", ... (", numbers.size(), " in all)");
}

// Where each of `wanted` stands among those that the handle has; `has` empty: it has all `size` of them.
absl::StatusOr<std::vector<int64_t>> Places(const std::vector<int64_t>& wanted, const std::vector<int32_t>& has, int64_t size,
                                            const char* what, const store::Stored& handle, const std::string& field) {
  if (has.empty()) return wanted;
  std::vector<int64_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int64_t>& needed = wanted.empty() ? all : wanted;
  std::vector<int64_t> places;
  for (const int64_t one : needed) {
    const auto found = std::lower_bound(has.begin(), has.end(), one);
    if (found == has.end() || *found != one)
      return Invalid(field, handle, absl::StrCat("has the ", what, " ", Some(has), ", and ", what, " ", one, " is wanted"));
    places.push_back(found - has.begin());
  }
  if (places.size() == has.size()) places.clear();  // ascending and each once: all of them, as they lie
  return places;
}

float ToFloat(const std::byte* at, api::DType dtype) {
  switch (dtype) {
    case api::DType::kF16: {
      c10::Half half;
      std::memcpy(&half, at, sizeof(half));
      return static_cast<float>(half);
    }
    case api::DType::kBF16: {
      c10::BFloat16 half;
      std::memcpy(&half, at, sizeof(half));
      return static_cast<float>(half);
    }
    default: {
      float value;
      std::memcpy(&value, at, sizeof(value));
      return value;
    }
  }
}

bool Consecutive(const std::vector<int64_t>& lines) {
  for (size_t i = 1; i < lines.size(); ++i)
    if (lines[i] != lines[i - 1] + 1) return false;
  return true;
}

}  // namespace

absl::StatusOr<StoredHandle> RequestHandles::Find(const std::string& id, const std::string& field) {
  if (const auto it = found_.find(id); it != found_.end()) return it->second;
  if (store_ == nullptr)
    return absl::InvalidArgumentError(
        field +
        ": handles are sources of interventions in Inference.Forward and Inference.Generate, and of Patching.Sweep's pairs; here "
        "give the values");
  absl::StatusOr<StoredHandle> handle = store_->Find(id, principal_);
  if (!handle.ok()) return absl::Status(handle.status().code(), absl::StrCat(field, ": ", std::string(handle.status().message())));
  found_.emplace(id, *handle);
  return handle;
}

api::DType DTypeAt(const LoadedModel& model, model::Site site) {
  if (run::InFloat32(site)) return api::DType::kF32;
  return *tensor::ToApiDType(model.model->dtype);  // weights have no other dtypes than the wire's
}

absl::Status CheckHandleWeights(const store::Stored& handle, const LoadedModel& model, const std::string& field) {
  const api::Handle& info = handle.info();
  if (info.weights_sha256 == model.model->weights_sha256) return absl::OkStatus();
  return Invalid(field, handle,
                 absl::StrCat("is of model ", info.model, " (weights ", info.weights_sha256, "), and this request is for ", model.name,
                              " (weights ", model.model->weights_sha256, ")"));
}

absl::Status CheckHandle(const store::Stored& handle, const LoadedModel& model, model::Site site, int64_t layer, bool minus_infinity,
                         const std::string& field) {
  const api::Handle& info = handle.info();
  FS_RETURN_IF_ERROR(CheckHandleWeights(handle, model, field));
  const std::string place = model::FullName(site, layer);
  if (info.site != place) return Invalid(field, handle, absl::StrCat("is of ", info.site, ", and the intervention acts at ", place));
  const api::DType dtype = DTypeAt(model, site);
  if (info.dtype != dtype)
    return Invalid(field, handle,
                   absl::StrCat("is ", std::string(api::NameOf(info.dtype)), ", and ", place, " of ", model.name, " is ",
                                std::string(api::NameOf(dtype))));
  const store::Content& content = handle.content();
  if (content.bad)
    return Invalid(field, handle, absl::StrCat("holds NaN or an infinity at element ", *content.bad, "; its numbers must be finite"));
  if (content.minus_infinity && !minus_infinity)
    return Invalid(field, handle, absl::StrCat("holds -inf at element ", *content.minus_infinity, "; here its numbers must be finite"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> HandlePositions(const store::Stored& handle, const LoadedModel& model,
                                                     const std::optional<api::Positions>& positions, const std::string& field) {
  const api::Handle& info = handle.info();
  if (!positions) return std::vector<int64_t>(info.positions.begin(), info.positions.end());
  // What is known of the sequence that the values came from.
  std::vector<int64_t> ids(info.row_length, run::kNoToken);
  for (size_t i = 0; i < info.token_ids.size(); ++i) ids[static_cast<size_t>(info.positions[i])] = info.token_ids[i];
  return ResolvePositions(model, *positions, ids, field + " (handle " + info.id + ")");
}

absl::Status CheckAscendingIn(const store::Stored& handle, const LoadedModel& model, const api::Positions& positions,
                              const std::string& field) {
  int64_t before = -1;
  for (const api::PositionItem& item : positions) {
    FS_ASSIGN_OR_RETURN(const std::vector<int64_t> resolved, HandlePositions(handle, model, api::Positions{item}, field));
    if (resolved.front() <= before)
      return absl::InvalidArgumentError(
          field + " must be written in ascending order, each once, because they are matched one by one with the target's");
    before = resolved.back();
  }
  return absl::OkStatus();
}

absl::StatusOr<HandlePart> PartOf(const store::Stored& handle, const LoadedModel& model, model::Site site, int64_t layer,
                                  const std::vector<int64_t>& positions, const std::vector<int64_t>& heads,
                                  const std::vector<int64_t>& units, const std::string& field) {
  const api::Handle& info = handle.info();
  const model::SiteSpec& spec = model::SpecOf(site);
  HandlePart part;
  part.place = {site, layer, {}, {}, {}};
  for (const int64_t position : positions) {
    const auto found = std::lower_bound(info.positions.begin(), info.positions.end(), position);
    if (found == info.positions.end() || *found != position)
      return Invalid(field, handle,
                     absl::StrCat("has the positions ", Some(info.positions), " of a sequence of ", info.row_length,
                                  " tokens, and position ", position, " is wanted"));
    part.place.positions.push_back(found - info.positions.begin());
  }
  const int head_axis = model::HeadAxis(spec);
  if (head_axis >= 0) {
    const int64_t count = model::SizeOf(spec.axes[static_cast<size_t>(head_axis)], model.model->arch);
    FS_ASSIGN_OR_RETURN(part.place.heads, Places(heads, info.heads, count, "heads", handle, field));
  }
  const int64_t size = info.units.empty() ? info.shape.back() : model::SizeOf(spec.axes.back(), model.model->arch);
  FS_ASSIGN_OR_RETURN(part.place.units, Places(units, info.units, size < 0 ? info.row_length : size, "units", handle, field));
  if (info.units.empty() && !units.empty() && units.back() >= info.shape.back())
    return Invalid(field, handle, absl::StrCat("has ", info.shape.back(), " units, and unit ", units.back(), " is wanted"));
  part.whole = part.place.positions.size() == info.positions.size() && part.place.heads.empty() && part.place.units.empty();
  return part;
}

at::Tensor ViewOf(const StoredHandle& handle) {
  const api::Chunk& data = handle->data();
  void* bytes = const_cast<std::byte*>(data.bytes.data());  // LibTorch has no read-only tensors; nobody writes to this one
  return at::from_blob(
      bytes, data.shape, [handle](void*) {}, at::TensorOptions().dtype(tensor::ToScalarType(data.dtype)));
}

at::Tensor FloatsOf(const StoredHandle& handle, const HandlePart& part, double scale, uint64_t& copied) {
  const api::Chunk& data = handle->data();
  const model::SiteSpec& spec = model::SpecOf(part.place.site);
  const size_t positions = static_cast<size_t>(model::PositionAxis(spec)), axes = data.shape.size();
  const bool all_else = part.place.heads.empty() && part.place.units.empty();
  if (scale == 1 && data.dtype == api::DType::kF32 && all_else && Consecutive(part.place.positions))
    return ViewOf(handle).narrow(static_cast<int64_t>(positions), part.place.positions.front(),
                                 static_cast<int64_t>(part.place.positions.size()));
  // By axis: which entries are taken, and how far apart they lie.
  std::vector<std::vector<int64_t>> taken(axes);
  std::vector<int64_t> strides(axes, 1), shape;
  for (size_t i = axes - 1; i > 0; --i) strides[i - 1] = strides[i] * data.shape[i];
  for (size_t i = 0; i < axes; ++i) {
    if (i == positions) taken[i] = part.place.positions;
    if (static_cast<int>(i) == model::HeadAxis(spec)) taken[i] = part.place.heads;
    if (i + 1 == axes && !part.place.units.empty()) taken[i] = part.place.units;
    if (taken[i].empty()) {
      taken[i].resize(static_cast<size_t>(data.shape[i]));
      std::iota(taken[i].begin(), taken[i].end(), 0);
    }
    shape.push_back(static_cast<int64_t>(taken[i].size()));
  }
  at::Tensor out = at::empty(shape, at::kFloat);
  copied += out.nbytes();
  float* to = out.mutable_data_ptr<float>();
  const size_t element = api::SizeOf(data.dtype);
  const auto factor = static_cast<float>(scale);
  const std::function<void(size_t, int64_t)> copy = [&](size_t axis, int64_t offset) {
    for (const int64_t entry : taken[axis]) {
      const int64_t at = offset + entry * strides[axis];
      if (axis + 1 < axes) {
        copy(axis + 1, at);
      } else {
        *to++ = ToFloat(data.bytes.data() + static_cast<size_t>(at) * element, data.dtype) * factor;
      }
    }
  };
  copy(0, 0);
  return out;
}

}  // namespace fluoroscope::engine
