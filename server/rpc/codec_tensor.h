// Tensors of requests and replies.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "api/results.h"
#include "api/tensor.h"
#include "fluoroscope/v1/tensor.pb.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {

fluoroscope::v1::DType EncodeDType(api::DType dtype);

// Nothing for DTYPE_UNSPECIFIED and numbers without a name.
std::optional<api::DType> DecodeDType(fluoroscope::v1::DType dtype);

// Bytes that `shape` describes; nothing when an axis is negative or the product does not fit 64 bits.
std::optional<uint64_t> ByteSize(const google::protobuf::RepeatedField<int64_t>& shape, size_t element);

// Checks dtype, shape and length against each other before anything is copied. The Chunk owns a copy of the bytes.
absl::StatusOr<api::Chunk> DecodeTensor(const fluoroscope::v1::Tensor& tensor, const FieldPath& path);

// As DecodeTensor, and: dtype f32, at least one number, every number finite.
absl::StatusOr<api::Chunk> DecodeFloats(const fluoroscope::v1::Tensor& tensor, const FieldPath& path);

// As DecodeTensor, and: dtype f32, two axes, at least one row and column, every number finite.
absl::StatusOr<api::Chunk> DecodeDirections(const fluoroscope::v1::Tensor& tensor, const FieldPath& path);

void EncodeTensorHeader(const api::NamedTensor& tensor, uint32_t id, fluoroscope::v1::TensorHeader* header);

// The bytes of ForwardReply{chunk{tensor_id, offset, data}} up to where `data_size` bytes of data follow. The data itself can then be
// sent from where it lies. Id and offset are always written, zeros too.
std::string EncodeChunkPrefix(uint32_t tensor_id, uint64_t offset, uint64_t data_size);

// The bytes of ForwardReply{pack{headers, data}} up to where `data_size` bytes of data follow. `headers` has no data yet.
std::string EncodePackPrefix(const fluoroscope::v1::TensorPack& headers, uint64_t data_size);

// At least the bytes that the tensor's header takes in a pack, without encoding it.
uint64_t HeaderSizeBound(const api::NamedTensor& tensor);

}  // namespace fluoroscope::rpc
