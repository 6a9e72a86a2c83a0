#include "engine/status.h"

#include <chrono>

#include "base/sha256.h"

namespace fluoroscope::engine {
namespace {

constexpr size_t kHashDigits = 8;

double Seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

api::ServerStatus StatusOf(const sched::Executor& executor, uint64_t budget_bytes, const residency::WeightBudget& weights) {
  sched::Executor::Status status = executor.GetStatus();
  api::ServerStatus out;
  out.budget_bytes = budget_bytes;
  out.weights_bytes = weights.charged_bytes();
  out.weights_budget_bytes = weights.limit_bytes();
  out.uptime_seconds = Seconds(status.uptime);
  out.busy_seconds = Seconds(status.busy);
  out.finished_requests = status.finished;
  const auto now = std::chrono::steady_clock::now();
  for (const sched::WorkView& work : status.works) {
    if (work.running) out.admitted_bytes += work.peak_bytes;
    const auto priority = work.priority == sched::Priority::kBatch ? api::Priority::kBatch : api::Priority::kInteractive;
    out.works.push_back({Sha256Hex(work.principal).substr(0, kHashDigits), work.running, priority, Seconds(now - work.arrived),
                         work.peak_bytes, work.flops});
  }
  return out;
}

}  // namespace fluoroscope::engine
