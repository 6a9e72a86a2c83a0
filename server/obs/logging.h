// The server's log: spdlog to standard error, and one line for every RPC.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace fluoroscope::obs {

// Installs the default spdlog logger. Writing happens on spdlog's own thread and the oldest lines are dropped when standard error is
// not read, so that a stuck log pipe never stalls a call. `level` is "debug", "info", "warn" or "error". Call once, from main.
absl::Status SetUpLogging(const std::string& level);

// Writes what is left and stops the thread. The last thing main does.
void ShutDownLogging();

// What is logged about a call that ended. Never prompts, and no status messages either, since those may quote a prompt.
struct RpcRecord {
  std::string_view id;      // the call's request id
  std::string_view method;  // "Inference.Forward"
  std::string_view code;    // "OK", "INVALID_ARGUMENT"
  double queue_ms = 0;      // waiting for the device
  double run_ms = 0;        // on the device
  double total_ms = 0;      // from the call's start to its end, sending included
  uint64_t bytes = 0;       // reply bytes
};
void LogRpc(const RpcRecord& record);

}  // namespace fluoroscope::obs
