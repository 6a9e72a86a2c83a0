#include "engine/handle_upload.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/resolve.h"
#include "tensor/chunk.h"
#include "tensor/dtype.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

class TensorUpload final : public api::Upload {
 public:
  TensorUpload(api::Handle info, at::Tensor tensor, bool minus_infinity, std::string principal, store::HandleStore& store,
               store::Charge charge, uint32_t ttl_seconds)
      : store_(store),
        charge_(std::move(charge)),
        principal_(std::move(principal)),
        ttl_seconds_(ttl_seconds),
        minus_infinity_(minus_infinity),
        scan_(info.dtype, info.shape),
        info_(std::move(info)),
        tensor_(std::move(tensor)),
        size_(tensor_.nbytes()) {}

  absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) override {
    if (offset != received_)
      return absl::InvalidArgumentError(
          absl::StrCat("chunk.offset is ", offset, "; ", received_, " bytes came before, and chunks come in order"));
    if (bytes.size() > size_ - received_)
      return absl::InvalidArgumentError(absl::StrCat("chunk.data: ", received_ + bytes.size(), " bytes have come, but the header's shape [",
                                                     absl::StrJoin(info_.shape, ", "), "] of ", std::string(api::NameOf(info_.dtype)),
                                                     " has ", size_));
    auto* data = static_cast<std::byte*>(tensor_.mutable_data_ptr());
    if (!bytes.empty()) std::memcpy(data + received_, bytes.data(), bytes.size());
    received_ += bytes.size();
    scan_.Update({data, received_});
    return absl::OkStatus();
  }

  absl::StatusOr<api::Handle> Finish() override {
    if (received_ != size_)
      return absl::InvalidArgumentError(absl::StrCat("the upload ended after ", received_, " of ", size_,
                                                     " bytes, which the header's shape [", absl::StrJoin(info_.shape, ", "), "] of ",
                                                     std::string(api::NameOf(info_.dtype)), " has"));
    store::Content content = scan_.Finish();
    if (info_.dtype == api::DType::kBool && content.bad)
      return absl::InvalidArgumentError(absl::StrCat("element ", *content.bad, " is neither 0 nor 1, and the dtype is bool"));
    if (content.bad)
      return absl::InvalidArgumentError(
          absl::StrCat("the tensor holds NaN or an infinity at ", Index(*content.bad), "; its numbers must be finite"));
    if (content.minus_infinity && !minus_infinity_)
      return absl::InvalidArgumentError(
          absl::StrCat("the tensor holds -inf at ", Index(*content.minus_infinity), "; its numbers must be finite"));
    FS_ASSIGN_OR_RETURN(api::Chunk data, tensor::ToChunk(std::exchange(tensor_, {})));
    return store_.Add(principal_, std::move(info_), std::move(data), std::move(content), std::move(charge_), ttl_seconds_);
  }

 private:
  // "element 37, [3, 1]"
  std::string Index(int64_t element) const {
    std::vector<int64_t> index(info_.shape.size());
    int64_t rest = element;
    for (size_t axis = index.size(); axis-- > 0;) index[axis] = std::exchange(rest, rest / info_.shape[axis]) % info_.shape[axis];
    return absl::StrCat("element ", element, ", [", absl::StrJoin(index, ", "), "]");
  }

  store::HandleStore& store_;
  store::Charge charge_;
  const std::string principal_;
  const uint32_t ttl_seconds_;
  const bool minus_infinity_;
  store::ContentScan scan_;
  api::Handle info_;
  at::Tensor tensor_;  // behind the charge: freed before it is given back
  const uint64_t size_;
  uint64_t received_ = 0;
};

absl::Status CheckIndices(const std::vector<int32_t>& chosen, int64_t size, const char* field, const std::string& site) {
  if (chosen.empty() || size < 0 || chosen.back() < size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("header.", field, ": ", chosen.back(), " does not exist; ", site, " has ", field, " 0 to ", size - 1));
}

}  // namespace

absl::StatusOr<std::unique_ptr<api::Upload>> BeginUpload(const api::PutHeader& header, const LoadedModel& model,
                                                         const std::string& principal, store::HandleStore& store) {
  FS_ASSIGN_OR_RETURN(const HookPoint hook, ExactSite(model, header.site, "header.site"));
  const model::SiteSpec& spec = model::SpecOf(hook.site);
  api::Handle info;
  info.model = model.name;
  info.weights_sha256 = model.model->weights_sha256;
  info.site = model::FullName(hook.site, hook.layer);
  if (spec.in_block) info.layer = static_cast<uint32_t>(hook.layer);
  info.dtype = header.dtype;
  info.shape = header.shape;
  info.uploaded = true;
  // What the site's axes must be; -1: any.
  std::vector<int64_t> wanted;
  std::vector<std::string> axes;
  for (const model::Axis axis : spec.axes) {
    axes.emplace_back(model::NameOf(axis));
    wanted.push_back(model::SizeOf(axis, model.model->arch));
  }
  const int head_axis = model::HeadAxis(spec);
  if (head_axis < 0 && !header.heads.empty())
    return absl::InvalidArgumentError(absl::StrCat("header.heads: ", info.site, " has no head axis"));
  if (head_axis >= 0) {
    FS_RETURN_IF_ERROR(CheckIndices(header.heads, wanted[static_cast<size_t>(head_axis)], "heads", info.site));
    if (!header.heads.empty()) wanted[static_cast<size_t>(head_axis)] = static_cast<int64_t>(header.heads.size());
  }
  FS_RETURN_IF_ERROR(CheckIndices(header.units, wanted.back(), "units", info.site));
  if (!header.units.empty()) wanted.back() = static_cast<int64_t>(header.units.size());
  const auto position_axis = static_cast<size_t>(model::PositionAxis(spec));
  if (!header.positions.empty()) wanted[position_axis] = static_cast<int64_t>(header.positions.size());
  bool fits = header.shape.size() == wanted.size();
  for (size_t i = 0; fits && i < wanted.size(); ++i) fits = wanted[i] < 0 || wanted[i] == header.shape[i];
  if (!fits) {
    std::string text;
    for (size_t i = 0; i < wanted.size(); ++i)
      absl::StrAppend(&text, i == 0 ? "" : ", ", axes[i], wanted[i] < 0 ? "" : " ", wanted[i] < 0 ? "" : std::to_string(wanted[i]));
    return absl::InvalidArgumentError(absl::StrCat("header.shape is [", absl::StrJoin(header.shape, ", "), "]; ", info.site, " of ",
                                                   model.name, " with these positions, heads and units is [", text, "]"));
  }
  const int64_t context = model.model->arch.context, count = header.shape[position_axis];
  if (count > context || (!header.positions.empty() && header.positions.back() >= context))
    return absl::InvalidArgumentError(absl::StrCat("header: positions go from 0 to ", context - 1, ", the context of ", model.name));
  info.positions = header.positions;
  for (int64_t i = 0; header.positions.empty() && i < count; ++i) info.positions.push_back(static_cast<int32_t>(i));
  info.token_ids = header.token_ids;
  if (!info.token_ids.empty() && info.token_ids.size() != info.positions.size())
    return absl::InvalidArgumentError(
        absl::StrCat("header.token_ids has ", info.token_ids.size(), " entries for ", info.positions.size(), " positions"));
  info.heads = header.heads;
  info.units = header.units;
  info.row_length = static_cast<uint32_t>(info.positions.back()) + 1;
  // Where there is an entry for each key, their number is the sequence's length.
  if (spec.axes.back() == model::Axis::kKey && header.units.empty()) {
    if (header.shape.back() < info.row_length)
      return absl::InvalidArgumentError(absl::StrCat("header.shape: ", info.site, " has one entry per key; ", header.shape.back(),
                                                     " are fewer than position ", info.positions.back(), " sees"));
    info.row_length = static_cast<uint32_t>(header.shape.back());
  }
  uint64_t bytes = api::SizeOf(header.dtype);
  for (const int64_t size : header.shape) bytes *= static_cast<uint64_t>(size);
  FS_ASSIGN_OR_RETURN(store::Charge charge, store.Reserve(principal, bytes));
  FS_ASSIGN_OR_RETURN(at::Tensor tensor,
                      tensor::GuardTorch([&] { return at::empty(header.shape, at::dtype(tensor::ToScalarType(header.dtype))); }));
  return std::make_unique<TensorUpload>(std::move(info), std::move(tensor), hook.site == model::Site::kAttnScores, principal, store,
                                        std::move(charge), header.ttl_seconds);
}

}  // namespace fluoroscope::engine
