// Puts the messages of one Forward reply together.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "client/chunk_reader.h"
#include "client/memory.h"
#include "client/tensor.h"
#include "fluoroscope/v1/inference.pb.h"

namespace fluoroscope::client {

// A whole, checked reply.
struct ForwardResult {
  v1::ForwardHeader header;     // provenance, and the token ids of every row
  std::vector<Tensor> tensors;  // in the order sent
  v1::ForwardSummary summary;   // metrics, timings, warnings

  // The first tensor of this name, row and part; null when there is none.
  const Tensor* Find(std::string_view name, uint32_t row = 0, std::string_view part = "") const;
};

// Takes the messages in order, then gives the whole. One per call; one thread at a time.
//
// Trusts nothing: a tensor's size must fit its shape before memory is allocated, chunks must come in order and stay inside their tensor, a
// pack must be as long as its tensors together, and the counts and the checksum must fit at the end. Whatever does not is DATA_LOSS, and
// the assembler is of no more use.
class Assembler {
 public:
  Assembler();
  ~Assembler();
  Assembler(const Assembler&) = delete;
  Assembler& operator=(const Assembler&) = delete;

  absl::Status Take(grpc::ByteBuffer* message);
  absl::StatusOr<ForwardResult> Finish();

 private:
  struct Hash;
  struct Incoming {
    size_t index;         // in result_.tensors
    size_t received = 0;  // bytes
  };

  // Gives a message's bytes piece by piece; false when there are no more.
  using Read = std::function<bool(std::byte* to, size_t size)>;

  absl::Status TakeReply(v1::ForwardReply reply);
  absl::Status TakeTensor(v1::TensorHeader header);
  // `pack` is the headers of `size` bytes of data, which `read` gives.
  absl::Status TakePack(v1::TensorPack pack, size_t size, const Read& read);
  // Where the chunk's bytes go, or why nowhere.
  absl::StatusOr<std::byte*> Place(const ChunkReader::Prefix& chunk);
  // Copies the chunk's bytes there and takes them into the checksum.
  absl::Status Receive(const ChunkReader::Prefix& chunk, std::byte* to, const Read& read);

  Arena memory_;
  ForwardResult result_;
  bool has_header_ = false, has_summary_ = false;
  std::unordered_map<uint32_t, Incoming> incoming_;  // by tensor id
  uint64_t received_ = 0;
  std::unique_ptr<Hash> hash_;
};

}  // namespace fluoroscope::client
