// Reads a TensorPack straight from gRPC's buffers: its bytes are copied once, to where they belong.
#pragma once

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <cstddef>
#include <optional>

#include "fluoroscope/v1/tensor.pb.h"

namespace fluoroscope::client {

// For packs what ChunkReader is for chunks, with the same rule: ForwardReply{pack}, the headers first, `data` last; everything else is for
// the generated classes to judge. Used once, by one thread; the message outlives it.
class PackReader {
 public:
  struct Prefix {
    v1::TensorPack pack;  // the headers, as they came: nothing about them is checked; no data
    size_t size = 0;      // of the data: exactly what is left of the message
  };

  explicit PackReader(grpc::ByteBuffer* message);

  // First: nullopt when the message is not a pack in the usual encoding.
  std::optional<Prefix> ReadPrefix();

  // Then, until the data is read: copies the next `size` bytes of it. False when gRPC's buffers end early.
  bool ReadData(std::byte* to, size_t size);

 private:
  size_t Left() const;

  const size_t length_;
  grpc::ProtoBufferReader buffers_;
  google::protobuf::io::CodedInputStream input_;
};

}  // namespace fluoroscope::client
