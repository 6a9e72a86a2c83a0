#include "client/status.h"

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"

namespace fluoroscope::client {
namespace {

// The limit, if this is gRPC's refusal of a request of so many bytes (a reply that is too large for this side reads the same, with its own
// size); else 0.
uint64_t ReceiveLimit(const grpc::Status& status, size_t request_bytes) {
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) return 0;
  const std::string text = status.error_message();
  const size_t at = text.find("larger than max (");
  uint64_t bytes = 0, limit = 0;
  if (at == std::string::npos || std::sscanf(text.c_str() + at, "larger than max (%" SCNu64 " vs. %" SCNu64 ")", &bytes, &limit) != 2)
    return 0;
  return bytes == request_bytes ? limit : 0;
}

std::string Mebibytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

absl::Status ToAbsl(const grpc::Status& status, size_t request_bytes) {
  if (status.ok()) return absl::OkStatus();
  if (const uint64_t limit = ReceiveLimit(status, request_bytes); limit > 0)
    return absl::ResourceExhaustedError(absl::StrCat(
        "the request has ", request_bytes, " bytes (", Mebibytes(request_bytes), "), and the server takes at most ", limit, " (",
        Mebibytes(limit),
        ") in one. Upload large tensors once (Handles.Put) and give their handles instead, or send fewer prompts in a request; "
        "whoever runs the server can raise limits.max_receive_mib in its configuration"));
  const int code = status.error_code();
  const bool known = code >= static_cast<int>(absl::StatusCode::kCancelled) && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown, status.error_message());
}

}  // namespace fluoroscope::client
