#include "engine/generate_service.h"

#include <utility>

#include "base/status_macros.h"
#include "engine/generate_builder.h"
#include "engine/load_model.h"
#include "generate/decode_pool.h"
#include "generate/prefix_use.h"

namespace fluoroscope::engine {
namespace {

generate::PrefixCache::Options PrefixOptionsOf(const config::ServerConfig& config, sched::Executor& executor) {
  return {.max_bytes = config.generation.prefix_cache_bytes.value_or(0),
          .reserve = [&executor](uint64_t bytes) { return executor.ReserveSpare(bytes); },
          .release = [&executor](uint64_t bytes) { executor.ReleaseSpare(bytes); }};
}

}  // namespace

GenerateService::GenerateService(const config::ServerConfig& config, sched::Executor& executor, obs::Metrics& metrics)
    : config_(config), metrics_(metrics), prefixes_(PrefixOptionsOf(config, executor), metrics) {}

absl::StatusOr<PlannedGeneration> GenerateService::Plan(const std::shared_ptr<const LoadedModel>& model,
                                                        const api::GenerateRequest& request, RequestHandles handles,
                                                        const api::CallContext& call, const std::shared_ptr<api::ForwardSink>& sink,
                                                        std::chrono::steady_clock::time_point arrived) {
  FS_ASSIGN_OR_RETURN(BuiltGeneration built, BuildGeneration(model, request, config_.limits, std::move(handles)));
  built.header.provenance = ProvenanceOf(*model, config_.threads);
  built.header.provenance.attention = built.attention;
  built.header.provenance.plan_sha256 = built.hash;
  built.header.provenance.isolated = request.isolated;
  // Alone in its own pool, a row's numbers do not depend on who else is there.
  std::shared_ptr<generate::DecodePool> pool =
      request.isolated ? std::make_shared<generate::DecodePool>(model->model, /*most_rows=*/1) : model->decoding;
  PlannedGeneration planned;
  planned.peak_bytes = built.cost.peak_bytes;
  planned.flops = built.cost.flops;
  planned.run = std::make_shared<generate::GenerateRun>(std::move(built.plan), std::move(built.header), std::move(pool), sink, metrics_,
                                                        arrived, generate::PrefixUse(prefixes_, call.principal), model->batching);
  return planned;
}

absl::StatusOr<api::Estimate> GenerateService::Estimate(const std::shared_ptr<const LoadedModel>& model,
                                                        const api::GenerateRequest& request, RequestHandles handles) const {
  FS_ASSIGN_OR_RETURN(const BuiltGeneration built, BuildGeneration(model, request, config_.limits, std::move(handles)));
  api::Estimate estimate;
  estimate.peak_bytes = built.cost.peak_bytes;
  estimate.reply_bytes = built.cost.reply_bytes;
  estimate.tokens = built.cost.tokens;
  estimate.flops = built.cost.flops;
  estimate.waves = static_cast<uint32_t>(built.plan.prompts.waves.size());
  estimate.budget_bytes = config_.memory_bytes;
  return estimate;
}

}  // namespace fluoroscope::engine
