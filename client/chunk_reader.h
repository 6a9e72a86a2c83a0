// Reads a TensorChunk straight from gRPC's buffers: its bytes are copied once, to where they belong.
#pragma once

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace fluoroscope::client {

// Looks at one message of a Forward stream. Used once, by one thread; the message outlives it.
//
// It knows only the encoding that servers send: ForwardReply{chunk}, the fields in order, `data` last. Everything else (another part,
// fields in another order, fields of a newer server, garbage) is for the generated classes to judge: this is an optimisation, not a second
// definition.
class ChunkReader {
 public:
  struct Prefix {
    uint32_t tensor_id = 0;
    uint64_t offset = 0;
    size_t size = 0;  // of the data: exactly what is left of the message
  };

  explicit ChunkReader(grpc::ByteBuffer* message);

  // First: nullopt when the message is not a chunk in the usual encoding.
  std::optional<Prefix> ReadPrefix();

  // Then: copies the data, all `size` bytes. False when gRPC's buffers end early.
  bool ReadData(std::byte* to, size_t size);

 private:
  size_t Left() const;

  const size_t length_;
  grpc::ProtoBufferReader buffers_;
  google::protobuf::io::CodedInputStream input_;
};

}  // namespace fluoroscope::client
