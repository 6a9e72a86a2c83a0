// What the scheduler is told: its limits, and what each work is.
#pragma once

#include <cstdint>

#include "api/call.h"
#include "config/config.h"
#include "sched/executor.h"

namespace fluoroscope::engine {

sched::Executor::Options ExecutorOptionsOf(const config::ServerConfig& config);

// A call's work.
sched::WorkInfo WorkInfoOf(const api::CallContext& call, uint64_t peak_bytes, double flops);

// The server's own.
sched::WorkInfo OwnWork(const char* name, uint64_t peak_bytes);

}  // namespace fluoroscope::engine
