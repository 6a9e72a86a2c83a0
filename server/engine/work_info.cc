#include "engine/work_info.h"

#include <chrono>
#include <utility>

namespace fluoroscope::engine {

sched::Executor::Options ExecutorOptionsOf(const config::ServerConfig& config, std::function<void(uint64_t)> reclaim_spare) {
  return {.max_waiting = config.limits.max_queue,
          .budget_bytes = config.memory_bytes,
          .stuck_after = std::chrono::seconds(config.stuck_seconds),
          .max_in_flight_per_principal = config.limits.max_in_flight_per_principal,
          .max_running_per_principal = config.limits.max_running_per_principal,
          .bytes_per_principal = config.limits.bytes_per_principal,
          .reclaim_spare = std::move(reclaim_spare)};
}

sched::WorkInfo WorkInfoOf(const api::CallContext& call, uint64_t peak_bytes, double flops) {
  const auto priority = call.priority == api::Priority::kBatch ? sched::Priority::kBatch : sched::Priority::kInteractive;
  return {call.principal, peak_bytes, call.deadline, call.cancel, priority, flops};
}

sched::WorkInfo OwnWork(const char* name, uint64_t peak_bytes) {
  return {.principal = name, .peak_bytes = peak_bytes, .cancel = {}, .is_servers = true};
}

}  // namespace fluoroscope::engine
