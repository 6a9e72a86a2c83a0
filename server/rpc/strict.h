// What every request must satisfy whatever its type: silently dropping an option would be a wrong answer.
#pragma once

#include <google/protobuf/message.h>

#include "absl/status/status.h"

namespace fluoroscope::rpc {

// Walks the whole message. INVALID_ARGUMENT with the field's path when
//   a field is unknown to this server (its number is given),
//   an enum field that is present is 0 or a number without a name,
//   a oneof is empty, or
//   a bool that only marks the choice of a oneof is false.
absl::Status CheckStrict(const google::protobuf::Message& request);

}  // namespace fluoroscope::rpc
