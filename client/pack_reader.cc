#include "client/pack_reader.h"

#include <string>

namespace fluoroscope::client {
namespace {

// Field number and wire type, as they stand before each field.
constexpr uint32_t kPackOfReply = 5 << 3 | 2;
constexpr uint32_t kHeaders = 1 << 3 | 2;
constexpr uint32_t kPackData = 15 << 3 | 2;

}  // namespace

PackReader::PackReader(grpc::ByteBuffer* message) : length_(message->Length()), buffers_(message), input_(&buffers_) {}

size_t PackReader::Left() const { return length_ - static_cast<size_t>(input_.CurrentPosition()); }

std::optional<PackReader::Prefix> PackReader::ReadPrefix() {
  uint64_t number = 0;
  if (!buffers_.status().ok() || input_.ReadTag() != kPackOfReply || !input_.ReadVarint64(&number) || number != Left()) return std::nullopt;
  Prefix prefix;
  std::string header;
  uint32_t tag = 0;
  while ((tag = input_.ReadTag()) == kHeaders) {
    if (!input_.ReadVarint64(&number) || number > Left() || !input_.ReadString(&header, static_cast<int>(number))) return std::nullopt;
    if (!prefix.pack.add_headers()->ParseFromString(header)) return std::nullopt;
  }
  if (tag != kPackData || !input_.ReadVarint64(&number) || number != Left()) return std::nullopt;
  prefix.size = number;
  return prefix;
}

bool PackReader::ReadData(std::byte* to, size_t size) { return input_.ReadRaw(to, static_cast<int>(size)); }

}  // namespace fluoroscope::client
