#include "rpc/codec_tensor.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "fluoroscope/v1/inference.pb.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

constexpr std::pair<api::DType, pb::DType> kDTypes[] = {
    {api::DType::kF32, pb::DTYPE_F32},   {api::DType::kF16, pb::DTYPE_F16}, {api::DType::kBF16, pb::DTYPE_BF16},
    {api::DType::kF64, pb::DTYPE_F64},   {api::DType::kI32, pb::DTYPE_I32}, {api::DType::kI64, pb::DTYPE_I64},
    {api::DType::kBool, pb::DTYPE_BOOL},
};

struct NotFinite {
  const char* what;
  int64_t element;
};

std::optional<NotFinite> FirstNotFinite(const api::Chunk& floats) {
  for (size_t i = 0; i < floats.bytes.size(); i += sizeof(float)) {
    float value;
    std::memcpy(&value, floats.bytes.data() + i, sizeof(value));
    if (!std::isfinite(value)) return NotFinite{std::isnan(value) ? "NaN" : "an infinity", static_cast<int64_t>(i / sizeof(float))};
  }
  return std::nullopt;
}

uint8_t* WriteTag(int field, WireFormatLite::WireType type, uint8_t* to) {
  return CodedOutputStream::WriteTagToArray(WireFormatLite::MakeTag(field, type), to);
}

// "Field `field`, `size` bytes follow".
std::string LengthPrefix(int field, uint64_t size) {
  uint8_t buffer[16];
  uint8_t* end = WriteTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED, buffer);
  end = CodedOutputStream::WriteVarint64ToArray(size, end);
  return {reinterpret_cast<char*>(buffer), static_cast<size_t>(end - buffer)};
}

// A message in field `outer_field` that starts with `inner` and ends with field `data_field`, up to where its `data_size` bytes follow.
std::string WrapData(int outer_field, const std::string& inner, int data_field, uint64_t data_size) {
  const std::string data = LengthPrefix(data_field, data_size);
  return absl::StrCat(LengthPrefix(outer_field, inner.size() + data.size() + data_size), inner, data);
}

}  // namespace

std::optional<api::DType> DecodeDType(pb::DType dtype) {
  for (const auto& [to, from] : kDTypes) {
    if (from == dtype) return to;
  }
  return std::nullopt;
}

std::optional<uint64_t> ByteSize(const google::protobuf::RepeatedField<int64_t>& shape, size_t element) {
  uint64_t size = element;
  for (const int64_t axis : shape) {
    if (axis < 0) return std::nullopt;
    if (__builtin_mul_overflow(size, static_cast<uint64_t>(axis), &size)) return std::nullopt;
  }
  return size;
}

pb::DType EncodeDType(api::DType dtype) {
  for (const auto& [from, to] : kDTypes) {
    if (from == dtype) return to;
  }
  return pb::DTYPE_UNSPECIFIED;
}

absl::StatusOr<api::Chunk> DecodeTensor(const pb::Tensor& tensor, const FieldPath& path) {
  const std::optional<api::DType> dtype = DecodeDType(tensor.dtype());
  if (!dtype) return InvalidAt({&path, "dtype"}, "is missing or unknown (", tensor.dtype(), ")");
  constexpr int kMaxAxes = 16;
  if (tensor.shape_size() > kMaxAxes)
    return InvalidAt({&path, "shape"}, "has ", tensor.shape_size(), " axes; at most ", kMaxAxes, " are allowed");
  const auto size = ByteSize(tensor.shape(), api::SizeOf(*dtype));
  const std::string shape = absl::StrCat("[", absl::StrJoin(tensor.shape(), ", "), "]");
  if (!size) return InvalidAt({&path, "shape"}, "is ", shape, "; its axes must not be negative and their product must fit 64 bits");
  if (*size != tensor.data().size()) {
    return InvalidAt({&path, "data"}, "has ", tensor.data().size(), " bytes, but shape ", shape, " of this dtype needs ", *size);
  }
  auto owner = std::make_shared<const std::string>(tensor.data());
  api::Chunk chunk;
  chunk.dtype = *dtype;
  chunk.shape.assign(tensor.shape().begin(), tensor.shape().end());
  chunk.bytes = std::as_bytes(std::span(owner->data(), owner->size()));
  chunk.owner = std::move(owner);
  return chunk;
}

absl::StatusOr<api::Chunk> DecodeFloats(const pb::Tensor& tensor, const FieldPath& path) {
  if (tensor.dtype() != pb::DTYPE_F32) return InvalidAt({&path, "dtype"}, "must be DTYPE_F32");
  FS_ASSIGN_OR_RETURN(api::Chunk chunk, DecodeTensor(tensor, path));
  if (chunk.bytes.empty()) return InvalidAt({&path, "shape"}, "is [", absl::StrJoin(chunk.shape, ", "), "]: there are no numbers");
  if (const auto bad = FirstNotFinite(chunk))
    return InvalidAt({&path, "data"}, "holds ", bad->what, " at element ", bad->element, "; its numbers must be finite");
  return chunk;
}

absl::StatusOr<api::Chunk> DecodeDirections(const pb::Tensor& tensor, const FieldPath& path) {
  if (tensor.dtype() != pb::DTYPE_F32) return InvalidAt({&path, "dtype"}, "must be DTYPE_F32");
  if (tensor.shape_size() != 2)
    return InvalidAt({&path, "shape"}, "has ", tensor.shape_size(), " axes; directions are [n, size of the site's last axis]");
  FS_ASSIGN_OR_RETURN(api::Chunk chunk, DecodeTensor(tensor, path));
  if (chunk.bytes.empty()) return InvalidAt({&path, "shape"}, "is [", chunk.shape[0], ", ", chunk.shape[1], "]: there are no directions");
  if (const auto bad = FirstNotFinite(chunk))
    return InvalidAt({&path, "data"}, "holds ", bad->what, " at row ", bad->element / chunk.shape[1], ", column ",
                     bad->element % chunk.shape[1], "; directions must be finite");
  return chunk;
}

void EncodeTensorHeader(const api::NamedTensor& tensor, uint32_t id, pb::TensorHeader* header) {
  header->set_id(id);
  header->set_dtype(EncodeDType(tensor.data.dtype));
  header->mutable_shape()->Add(tensor.data.shape.begin(), tensor.data.shape.end());
  header->set_byte_size(tensor.data.bytes.size());
  header->set_name(tensor.name);
  header->set_row(tensor.row);
  if (tensor.layer) header->set_layer(*tensor.layer);
  header->mutable_positions()->Add(tensor.positions.begin(), tensor.positions.end());
  header->mutable_token_ids()->Add(tensor.token_ids.begin(), tensor.token_ids.end());
  header->mutable_heads()->Add(tensor.heads.begin(), tensor.heads.end());
  header->mutable_units()->Add(tensor.units.begin(), tensor.units.end());
  header->set_capture(tensor.capture);
  header->set_part(tensor.part);
  if (tensor.sample) header->set_sample(*tensor.sample);
  header->set_gradient_of(tensor.gradient_of);
}

std::string EncodeChunkPrefix(uint32_t tensor_id, uint64_t offset, uint64_t data_size) {
  uint8_t buffer[32];
  uint8_t* end = WriteTag(pb::TensorChunk::kTensorIdFieldNumber, WireFormatLite::WIRETYPE_VARINT, buffer);
  end = CodedOutputStream::WriteVarint32ToArray(tensor_id, end);
  end = WriteTag(pb::TensorChunk::kOffsetFieldNumber, WireFormatLite::WIRETYPE_VARINT, end);
  end = CodedOutputStream::WriteVarint64ToArray(offset, end);
  const std::string inner(reinterpret_cast<char*>(buffer), static_cast<size_t>(end - buffer));
  return WrapData(pb::ForwardReply::kChunkFieldNumber, inner, pb::TensorChunk::kDataFieldNumber, data_size);
}

std::string EncodePackPrefix(const pb::TensorPack& headers, uint64_t data_size) {
  return WrapData(pb::ForwardReply::kPackFieldNumber, headers.SerializeAsString(), pb::TensorPack::kDataFieldNumber, data_size);
}

uint64_t HeaderSizeBound(const api::NamedTensor& tensor) {
  constexpr uint64_t kFixed = 128, kVarint = 10;  // tags, lengths and single numbers; the longest varint
  const uint64_t numbers =
      tensor.data.shape.size() + tensor.positions.size() + tensor.token_ids.size() + tensor.heads.size() + tensor.units.size();
  return kFixed + tensor.name.size() + tensor.part.size() + tensor.gradient_of.size() + kVarint * numbers;
}

}  // namespace fluoroscope::rpc
