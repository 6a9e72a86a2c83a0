#include "rpc/codec_handles.h"

#include <limits>
#include <optional>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "rpc/codec_models.h"
#include "rpc/codec_tensor.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

constexpr int kMaxAxes = 16;
constexpr int kMaxIndices = 1 << 18;  // more than any context or layer has

// Ascending and each once, not negative.
template <typename T>
absl::Status CheckList(const google::protobuf::RepeatedField<T>& numbers, const FieldPath& parent, const char* name) {
  FS_RETURN_IF_ERROR(CheckEntries({&parent, name}, numbers.size(), kMaxIndices));
  int64_t before = -1;
  for (int i = 0; i < numbers.size(); ++i) {
    const int64_t number = numbers[i];
    if (number <= before || number > std::numeric_limits<int32_t>::max())
      return InvalidAt({&parent, name, i}, "is ", number, "; these numbers start at 0, ascend, and come once each");
    before = number;
  }
  return absl::OkStatus();
}

absl::Status CheckTtl(uint32_t seconds, const FieldPath& path) {
  if (seconds == 0) return InvalidAt({&path, "ttl_seconds"}, "is 0; it must be at least 1");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> DecodeHandleId(const std::string& id, const FieldPath& path) {
  constexpr size_t kLongest = 64;
  if (id.empty()) return InvalidAt(path, "is empty; it must be a handle's id");
  if (id.size() > kLongest) return InvalidAt(path, "has ", id.size(), " bytes; a handle's id has fewer than ", kLongest);
  return id;
}

absl::Status CheckPut(const pb::PutRequest& request) { return CheckStrict(request); }

absl::StatusOr<api::PutHeader> DecodePutHeader(const pb::PutHeader& header) {
  const FieldPath root;
  const FieldPath path{&root, "header"};
  api::PutHeader out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(header.model()));
  if (header.site().empty()) return InvalidAt({&path, "site"}, "is empty; Models.GetModel gives the names");
  if (header.site().size() > kMaxNameBytes) return InvalidAt({&path, "site"}, "is longer than ", kMaxNameBytes, " bytes");
  out.site = header.site();
  const std::optional<api::DType> dtype = DecodeDType(header.dtype());
  if (!dtype) return InvalidAt({&path, "dtype"}, "is missing or unknown (", header.dtype(), ")");
  out.dtype = *dtype;
  if (header.shape_size() == 0 || header.shape_size() > kMaxAxes)
    return InvalidAt({&path, "shape"}, "has ", header.shape_size(), " axes; 1 to ", kMaxAxes, " are allowed");
  const std::optional<uint64_t> bytes = ByteSize(header.shape(), api::SizeOf(*dtype));
  if (!bytes || *bytes == 0)
    return InvalidAt({&path, "shape"}, "is [", absl::StrJoin(header.shape(), ", "),
                     "]; every axis must be at least 1, and their product fit 64 bits");
  out.shape.assign(header.shape().begin(), header.shape().end());
  FS_RETURN_IF_ERROR(CheckList(header.positions(), path, "positions"));
  FS_RETURN_IF_ERROR(CheckList(header.heads(), path, "heads"));
  FS_RETURN_IF_ERROR(CheckList(header.units(), path, "units"));
  FS_RETURN_IF_ERROR(CheckEntries({&path, "token_ids"}, header.token_ids_size(), kMaxIndices));
  for (int i = 0; i < header.token_ids_size(); ++i)
    if (header.token_ids(i) < 0) return InvalidAt({&path, "token_ids", i}, "is ", header.token_ids(i), "; token ids are not negative");
  out.positions.assign(header.positions().begin(), header.positions().end());
  out.token_ids.assign(header.token_ids().begin(), header.token_ids().end());
  out.heads.assign(header.heads().begin(), header.heads().end());
  out.units.assign(header.units().begin(), header.units().end());
  FS_RETURN_IF_ERROR(CheckTtl(header.ttl_seconds(), path));
  out.ttl_seconds = header.ttl_seconds();
  return out;
}

absl::StatusOr<api::HandleSlice> DecodeGetHandle(const pb::GetHandleRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::HandleSlice out;
  FS_ASSIGN_OR_RETURN(out.id, DecodeHandleId(request.handle(), {&root, "handle"}));
  if (request.has_positions()) {
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(request.positions(), {&root, "positions"}));
  }
  FS_RETURN_IF_ERROR(CheckEntries({&root, "heads"}, request.heads_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&root, "units"}, request.units_size()));
  out.heads.assign(request.heads().begin(), request.heads().end());
  out.units.assign(request.units().begin(), request.units().end());
  return out;
}

absl::StatusOr<std::string> DecodeListHandles(const pb::ListHandlesRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  if (request.after().empty()) return std::string();
  const FieldPath root;
  return DecodeHandleId(request.after(), {&root, "after"});
}

absl::StatusOr<Lease> DecodeRenewHandle(const pb::RenewHandleRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  FS_ASSIGN_OR_RETURN(const std::string id, DecodeHandleId(request.handle(), {&root, "handle"}));
  FS_RETURN_IF_ERROR(CheckTtl(request.ttl_seconds(), root));
  return Lease{id, request.ttl_seconds()};
}

absl::StatusOr<std::string> DecodeDeleteHandle(const pb::DeleteHandleRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  return DecodeHandleId(request.handle(), {&root, "handle"});
}

void EncodeHandle(const api::Handle& handle, pb::Handle* out) {
  out->set_id(handle.id);
  out->set_model(handle.model);
  out->set_weights_sha256(handle.weights_sha256);
  out->set_site(handle.site);
  if (handle.layer) out->set_layer(*handle.layer);
  out->set_dtype(EncodeDType(handle.dtype));
  out->mutable_shape()->Add(handle.shape.begin(), handle.shape.end());
  out->set_byte_size(handle.byte_size);
  out->set_row(handle.row);
  out->mutable_positions()->Add(handle.positions.begin(), handle.positions.end());
  out->mutable_token_ids()->Add(handle.token_ids.begin(), handle.token_ids.end());
  out->mutable_heads()->Add(handle.heads.begin(), handle.heads.end());
  out->mutable_units()->Add(handle.units.begin(), handle.units.end());
  out->set_row_length(handle.row_length);
  out->set_seconds_left(handle.seconds_left);
  out->set_uploaded(handle.uploaded);
  out->set_plan_sha256(handle.plan_sha256);
  out->set_capture(handle.capture);
}

pb::ListHandlesReply EncodeHandlePage(const api::HandlePage& page) {
  pb::ListHandlesReply reply;
  for (const api::Handle& handle : page.handles) EncodeHandle(handle, reply.add_handles());
  reply.set_next(page.next);
  return reply;
}

}  // namespace fluoroscope::rpc
