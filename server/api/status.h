// What a server is doing, as data: the domain types behind proto/fluoroscope/v1/server.proto, which documents the fields.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/call.h"

namespace fluoroscope::api {

struct WorkStatus {
  std::string principal;  // a hash, not the name
  bool running = false;
  Priority priority = Priority::kInteractive;
  double age_seconds = 0;
  uint64_t peak_bytes = 0;
  double flops = 0;
};

struct ServerStatus {
  uint64_t admitted_bytes = 0, budget_bytes = 0;
  uint64_t weights_bytes = 0, weights_budget_bytes = 0;
  double uptime_seconds = 0, busy_seconds = 0;
  uint64_t finished_requests = 0;
  std::vector<WorkStatus> works;
};

}  // namespace fluoroscope::api
