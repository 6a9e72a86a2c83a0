// Where in a request something is wrong: "captures[2].select.sites".
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::rpc {

// One step on the way from the request to a field; lives on the stack of the code that walks there and is spelled out only in errors.
struct FieldPath {
  const FieldPath* parent = nullptr;
  const char* name = "";
  int index = -1;  // of a repeated field; -1: not repeated

  std::string ToString() const;
};

// INVALID_ARGUMENT "<path> <what>".
template <typename... What>
absl::Status InvalidAt(const FieldPath& path, const What&... what) {
  return absl::InvalidArgumentError(absl::StrCat(path.ToString(), " ", what...));
}

// Bounds on the lists of a request: far above what anybody writes. They multiply with prompts, layers and each other when a plan is made,
// so that without them one message within the receive limit could keep the prepare thread busy for minutes.
constexpr int kMaxEntries = 4096;
constexpr int kMaxInterventions = 256;

// RESOURCE_EXHAUSTED with both numbers when the field has more entries than it may.
inline absl::Status CheckEntries(const FieldPath& path, int entries, int most = kMaxEntries) {
  if (entries <= most) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(path.ToString(), " has ", entries, " entries; this server takes at most ", most, " in one request"));
}

}  // namespace fluoroscope::rpc
