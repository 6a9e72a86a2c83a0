// What every call carries besides its request.
#pragma once

#include <chrono>
#include <string>

#include "base/cancel.h"

namespace fluoroscope::api {

// Interactive: somebody waits. Batch: lets interactive calls go first.
enum class Priority { kInteractive, kBatch };

struct CallContext {
  std::string request_id;  // for the log line; random
  std::string principal;   // who pays; from the token or the SDK's random id
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  CancelToken cancel;  // set by the transport when the client goes away
  Priority priority = Priority::kInteractive;
};

}  // namespace fluoroscope::api
