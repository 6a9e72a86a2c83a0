// What the engine does with generations: planning, costs, and what they leave for each other.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "api/call.h"
#include "api/generate.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "generate/generate_run.h"
#include "generate/prefix_cache.h"
#include "sched/executor.h"

namespace fluoroscope::engine {

// A run that is ready to be submitted.
struct PlannedGeneration {
  std::shared_ptr<generate::GenerateRun> run;
  uint64_t peak_bytes = 0;
  double flops = 0;
};

// Owns the prefix cache, whose memory is spare bytes of the executor's budget. Every method may be called from any thread. Outlives the
// executor's works, which use the cache.
class GenerateService {
 public:
  // References outlive it.
  GenerateService(const config::ServerConfig& config, sched::Executor& executor, obs::Metrics& metrics);

  absl::StatusOr<PlannedGeneration> Plan(const std::shared_ptr<const LoadedModel>& model, const api::GenerateRequest& request,
                                         RequestHandles handles, const api::CallContext& call,
                                         const std::shared_ptr<api::ForwardSink>& sink, std::chrono::steady_clock::time_point arrived);

  absl::StatusOr<api::Estimate> Estimate(const std::shared_ptr<const LoadedModel>& model, const api::GenerateRequest& request,
                                         RequestHandles handles) const;

  // For the executor: lets go of so many spare bytes at least.
  void GiveBack(uint64_t bytes) { prefixes_.GiveBack(bytes); }

 private:
  const config::ServerConfig& config_;
  obs::Metrics& metrics_;
  generate::PrefixCache prefixes_;
};

}  // namespace fluoroscope::engine
