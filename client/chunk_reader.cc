#include "client/chunk_reader.h"

#include <limits>

namespace fluoroscope::client {
namespace {

// Field number and wire type, as they stand before each field.
constexpr uint32_t kChunkOfReply = 3 << 3 | 2;
constexpr uint32_t kTensorId = 1 << 3 | 0;
constexpr uint32_t kOffset = 2 << 3 | 0;
constexpr uint32_t kChunkData = 15 << 3 | 2;

}  // namespace

ChunkReader::ChunkReader(grpc::ByteBuffer* message) : length_(message->Length()), buffers_(message), input_(&buffers_) {}

size_t ChunkReader::Left() const { return length_ - static_cast<size_t>(input_.CurrentPosition()); }

std::optional<ChunkReader::Prefix> ChunkReader::ReadPrefix() {
  Prefix prefix;
  uint64_t number = 0;
  if (!buffers_.status().ok() || input_.ReadTag() != kChunkOfReply || !input_.ReadVarint64(&number) || number != Left())
    return std::nullopt;
  uint32_t tag = input_.ReadTag();
  if (tag == kTensorId) {
    if (!input_.ReadVarint64(&number) || number > std::numeric_limits<uint32_t>::max()) return std::nullopt;
    prefix.tensor_id = static_cast<uint32_t>(number);
    tag = input_.ReadTag();
  }
  if (tag == kOffset) {
    if (!input_.ReadVarint64(&prefix.offset)) return std::nullopt;
    tag = input_.ReadTag();
  }
  if (tag != kChunkData || !input_.ReadVarint64(&number) || number != Left()) return std::nullopt;
  prefix.size = number;
  return prefix;
}

bool ChunkReader::ReadData(std::byte* to, size_t size) { return input_.ReadRaw(to, static_cast<int>(size)); }

}  // namespace fluoroscope::client
