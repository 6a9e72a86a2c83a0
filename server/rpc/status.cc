#include "rpc/status.h"

#include <string>

namespace fluoroscope::rpc {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // Headers are limited to 8 KiB, and a byte that is not printable ASCII takes three there.
  constexpr size_t kMost = 2048;
  std::string message(status.message());
  if (message.size() > kMost) {
    size_t end = kMost;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;  // not inside a UTF-8 character
    message.resize(end);
    message += " ...";
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

std::string_view CodeName(absl::StatusCode code) {
  static constexpr std::string_view kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : kNames[2];
}

}  // namespace fluoroscope::rpc
