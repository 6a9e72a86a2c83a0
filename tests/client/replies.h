// Replies as servers send them, in pieces as gRPC delivers them.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "fluoroscope/v1/inference.pb.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fluoroscope::client {

// `bytes` as one message, cut into slices of at most `slice` bytes (0: random sizes from `random`).
inline grpc::ByteBuffer Message(const std::string& bytes, size_t slice = 16384, std::mt19937* random = nullptr) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size();) {
    const size_t want = random != nullptr ? (*random)() % 40 : slice;
    const size_t size = std::min(want, bytes.size() - at);
    slices.emplace_back(bytes.data() + at, size);  // zero-sized slices are allowed too
    at += size;
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

inline std::string Bytes(const google::protobuf::MessageLite& message) { return message.SerializeAsString(); }

inline v1::ForwardReply HeaderReply() {
  v1::ForwardReply reply;
  reply.mutable_header()->mutable_provenance()->set_model("m");
  reply.mutable_header()->add_rows()->add_token_ids(7);
  return reply;
}

inline v1::ForwardReply TensorReply(uint32_t id, std::vector<int64_t> shape, uint64_t byte_size, v1::DType dtype = v1::DTYPE_BOOL) {
  v1::ForwardReply reply;
  v1::TensorHeader* tensor = reply.mutable_tensor();
  tensor->set_id(id);
  tensor->set_dtype(dtype);
  for (int64_t axis : shape) tensor->add_shape(axis);
  tensor->set_byte_size(byte_size);
  tensor->set_name("blocks." + std::to_string(id) + ".hook_z");
  tensor->set_row(id % 3);
  tensor->set_layer(id);
  tensor->add_positions(4);
  tensor->add_token_ids(99);
  return reply;
}

inline v1::ForwardReply ChunkReply(uint32_t id, uint64_t offset, const std::string& data) {
  v1::ForwardReply reply;
  reply.mutable_chunk()->set_tensor_id(id);
  reply.mutable_chunk()->set_offset(offset);
  reply.mutable_chunk()->set_data(data);
  return reply;
}

// A pack of the tensors that TensorReply describes.
inline v1::ForwardReply PackReply(const std::vector<v1::ForwardReply>& tensors, const std::string& data) {
  v1::ForwardReply reply;
  for (const v1::ForwardReply& tensor : tensors) *reply.mutable_pack()->add_headers() = tensor.tensor();
  reply.mutable_pack()->set_data(data);
  return reply;
}

inline v1::ForwardReply SummaryReply(const std::string& all_bytes, uint32_t tensors) {
  v1::ForwardReply reply;
  reply.mutable_summary()->set_tensor_count(tensors);
  reply.mutable_summary()->set_byte_count(all_bytes.size());
  reply.mutable_summary()->set_checksum(XXH3_64bits(all_bytes.data(), all_bytes.size()));
  return reply;
}

inline std::string RandomBytes(size_t size, std::mt19937& random) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

}  // namespace fluoroscope::client
