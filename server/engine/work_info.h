// What the scheduler is told: its limits, and what each work is.
#pragma once

#include <cstdint>
#include <functional>

#include "api/call.h"
#include "config/config.h"
#include "sched/executor.h"

namespace fluoroscope::engine {

// `reclaim_spare` as there.
sched::Executor::Options ExecutorOptionsOf(const config::ServerConfig& config, std::function<void(uint64_t)> reclaim_spare);

// A call's work.
sched::WorkInfo WorkInfoOf(const api::CallContext& call, uint64_t peak_bytes, double flops);

// The server's own.
sched::WorkInfo OwnWork(const char* name, uint64_t peak_bytes);

}  // namespace fluoroscope::engine
