#include "client/assembler.h"

#define XXH_STATIC_LINKING_ONLY  // the size of its state
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the widest vectors that this processor has
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/pack_reader.h"

namespace fluoroscope::client {
namespace {

// Copied, then hashed while the processor's nearest cache still has it.
constexpr size_t kPiece = size_t{64} << 10;

template <typename... Parts>
absl::Status DataLoss(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat("the server's reply is damaged: ", parts...));
}

// The size that shape and dtype say; nullopt when it is no size at all.
std::optional<uint64_t> SizeOfShape(const v1::TensorHeader& header) {
  uint64_t size = SizeOf(header.dtype());
  if (size == 0) return std::nullopt;
  for (const int64_t axis : header.shape()) {
    if (axis < 0 || __builtin_mul_overflow(size, static_cast<uint64_t>(axis), &size)) return std::nullopt;
  }
  return size;
}

Tensor ToTensor(v1::TensorHeader&& header) {
  Tensor tensor;
  tensor.name = std::move(*header.mutable_name());
  tensor.part = std::move(*header.mutable_part());
  tensor.dtype = header.dtype();
  tensor.shape.assign(header.shape().begin(), header.shape().end());
  tensor.row = header.row();
  if (header.has_layer()) tensor.layer = header.layer();
  tensor.positions.assign(header.positions().begin(), header.positions().end());
  tensor.token_ids.assign(header.token_ids().begin(), header.token_ids().end());
  tensor.heads.assign(header.heads().begin(), header.heads().end());
  tensor.capture = header.capture();
  tensor.gradient_of = std::move(*header.mutable_gradient_of());
  return tensor;
}

}  // namespace

struct Assembler::Hash {
  XXH3_state_t state;
};

Assembler::Assembler() : hash_(std::make_unique<Hash>()) {
  XXH3_64bits_reset(&hash_->state);
  KeepFreedBuffers();
}
Assembler::~Assembler() = default;

const Tensor* ForwardResult::Find(std::string_view name, uint32_t row, std::string_view part) const {
  for (const Tensor& tensor : tensors) {
    if (tensor.name == name && tensor.row == row && tensor.part == part) return &tensor;
  }
  return nullptr;
}

absl::Status Assembler::Take(grpc::ByteBuffer* message) {
  {
    ChunkReader reader(message);
    if (const auto chunk = reader.ReadPrefix()) {
      const auto to = Place(*chunk);
      if (!to.ok()) return to.status();
      return Receive(*chunk, *to, [&](std::byte* at, size_t size) { return reader.ReadData(at, size); });
    }
  }
  {
    PackReader reader(message);
    if (auto prefix = reader.ReadPrefix()) {
      return TakePack(std::move(prefix->pack), prefix->size, [&](std::byte* to, size_t size) { return reader.ReadData(to, size); });
    }
  }
  v1::ForwardReply reply;
  grpc::ProtoBufferReader reader(message);
  if (!reader.status().ok() || !reply.ParseFromZeroCopyStream(&reader)) {
    return DataLoss("a message of ", message->Length(), " bytes is not a ForwardReply");
  }
  return TakeReply(std::move(reply));
}

absl::Status Assembler::TakeReply(v1::ForwardReply reply) {
  switch (reply.part_case()) {
    case v1::ForwardReply::kHeader:
      if (std::exchange(has_header_, true)) return DataLoss("it has two headers");
      result_.header = std::move(*reply.mutable_header());
      return absl::OkStatus();
    case v1::ForwardReply::kTensor:
      return TakeTensor(std::move(*reply.mutable_tensor()));
    case v1::ForwardReply::kChunk: {
      const std::string& data = reply.chunk().data();
      const ChunkReader::Prefix chunk{reply.chunk().tensor_id(), reply.chunk().offset(), data.size()};
      const auto to = Place(chunk);
      if (!to.ok()) return to.status();
      size_t at = 0;
      return Receive(chunk, *to, [&](std::byte* piece, size_t size) {
        std::memcpy(piece, data.data() + at, size);
        at += size;
        return true;
      });
    }
    case v1::ForwardReply::kPack: {
      const std::string data = std::move(*reply.mutable_pack()->mutable_data());
      size_t at = 0;
      return TakePack(std::move(*reply.mutable_pack()), data.size(), [&](std::byte* to, size_t size) {
        std::memcpy(to, data.data() + at, size);  // inside: the sizes together are data.size()
        at += size;
        return true;
      });
    }
    case v1::ForwardReply::kSummary:
      if (std::exchange(has_summary_, true)) return DataLoss("it has two summaries");
      result_.summary = std::move(*reply.mutable_summary());
      return absl::OkStatus();
    case v1::ForwardReply::kHandle:  // of captures that stay on the server, which this client does not ask for
    case v1::ForwardReply::PART_NOT_SET:
      return absl::OkStatus();  // a part that a newer server adds and this client does not know
  }
  return absl::OkStatus();
}

absl::Status Assembler::TakeTensor(v1::TensorHeader header) {
  const auto size = SizeOfShape(header);
  if (!size || *size != header.byte_size()) {
    return DataLoss("tensor ", header.name(), " of shape [", absl::StrJoin(header.shape(), ", "), "] and ", NameOf(header.dtype()),
                    " says it has ", header.byte_size(), " bytes");
  }
  const uint32_t id = header.id();
  if (!incoming_.try_emplace(id, Incoming{result_.tensors.size()}).second) return DataLoss("two tensors have the id ", id);
  Tensor tensor = ToTensor(std::move(header));
  tensor.size = *size;
  tensor.data = memory_.Allocate(*size);
  if (tensor.data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("there is no memory here for tensor ", tensor.name, " of ", *size, " bytes"));
  }
  result_.tensors.push_back(std::move(tensor));
  return absl::OkStatus();
}

absl::Status Assembler::TakePack(v1::TensorPack pack, size_t size, const Read& read) {
  uint64_t left = size;
  for (const v1::TensorHeader& header : pack.headers()) {
    if (header.byte_size() > left) return DataLoss("a pack of ", size, " bytes is too short for its ", pack.headers_size(), " tensors");
    left -= header.byte_size();
  }
  if (left != 0) return DataLoss("a pack has ", left, " bytes more than its ", pack.headers_size(), " tensors");
  for (v1::TensorHeader& header : *pack.mutable_headers()) {
    const uint32_t id = header.id();
    if (absl::Status status = TakeTensor(std::move(header)); !status.ok()) return status;
    const Tensor& tensor = result_.tensors.back();
    if (tensor.size == 0) continue;
    if (absl::Status status = Receive({id, 0, tensor.size}, tensor.data.get(), read); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> Assembler::Place(const ChunkReader::Prefix& chunk) {
  const auto found = incoming_.find(chunk.tensor_id);
  if (found == incoming_.end()) return DataLoss("a chunk belongs to tensor ", chunk.tensor_id, ", which was not announced");
  const Tensor& tensor = result_.tensors[found->second.index];
  const size_t next = found->second.received;
  if (chunk.offset != next || chunk.size > tensor.size - next) {
    return DataLoss("a chunk of ", chunk.size, " bytes at offset ", chunk.offset, " came for tensor ", tensor.name, " (", tensor.size,
                    " bytes), where byte ", next, " was next");
  }
  return tensor.data.get() + next;
}

absl::Status Assembler::Receive(const ChunkReader::Prefix& chunk, std::byte* to, const Read& read) {
  for (size_t at = 0; at < chunk.size; at += kPiece) {
    const size_t size = std::min(kPiece, chunk.size - at);
    if (!read(to + at, size)) return DataLoss("a message is shorter than it says");
    XXH3_64bits_update(&hash_->state, to + at, size);
  }
  incoming_.find(chunk.tensor_id)->second.received += chunk.size;
  received_ += chunk.size;
  return absl::OkStatus();
}

absl::StatusOr<ForwardResult> Assembler::Finish() {
  if (!has_header_) return DataLoss("it ended without its header");
  if (!has_summary_) return DataLoss("it ended without its summary");
  for (const auto& [id, incoming] : incoming_) {
    const Tensor& tensor = result_.tensors[incoming.index];
    if (incoming.received != tensor.size) {
      return DataLoss("tensor ", tensor.name, " of row ", tensor.row, " ended after ", incoming.received, " of ", tensor.size, " bytes");
    }
  }
  const v1::ForwardSummary& summary = result_.summary;
  if (result_.tensors.size() != summary.tensor_count() || received_ != summary.byte_count()) {
    return DataLoss("it has ", result_.tensors.size(), " tensors with ", received_, " bytes; the server sent ", summary.tensor_count(),
                    " with ", summary.byte_count());
  }
  const uint64_t checksum = XXH3_64bits_digest(&hash_->state);
  if (checksum != summary.checksum()) {
    return DataLoss("the checksum of its tensors is ", absl::Hex(checksum, absl::kZeroPad16), ", the server's is ",
                    absl::Hex(summary.checksum(), absl::kZeroPad16));
  }
  return std::move(result_);
}

}  // namespace fluoroscope::client
