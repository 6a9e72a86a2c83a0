#include "engine/grid_work.h"

#include <type_traits>
#include <utility>

#include "attribution/attribution_run.h"
#include "base/status_macros.h"
#include "engine/attribution_builder.h"
#include "engine/load_model.h"
#include "engine/path_builder.h"
#include "engine/sweep_builder.h"
#include "sweep/fast_sweep_run.h"
#include "sweep/sweep_run.h"

namespace fluoroscope::engine {
namespace {

// The part of a header that the server itself knows.
void Complete(api::SweepHeader& header, const std::string& hash, const LoadedModel& model, const config::ServerConfig& config) {
  header.provenance = ProvenanceOf(model, config.threads);
  header.provenance.attention = "fused";
  header.provenance.plan_sha256 = hash;
  header.cost.budget_bytes = config.memory_bytes;
}

// `first`: what the run makes its cells of.
template <typename Run, typename Built, typename First>
GridWork Finished(Built& built, First first, const LoadedModel& model, const config::ServerConfig& config, obs::Metrics& metrics,
                  GridReply reply) {
  Complete(built.header, built.hash, model, config);
  if (std::is_same_v<Run, sweep::FastSweepRun>) built.header.provenance.dtype += ", matrix products in bfloat16";
  const uint64_t peak_bytes = built.header.cost.peak_bytes;
  const double flops = built.header.cost.flops;
  return {std::make_shared<Run>(std::move(first), std::move(built.header), std::move(built.warnings), std::move(reply.sink), metrics,
                                reply.arrived),
          peak_bytes, flops};
}

}  // namespace

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::SweepRequest& request, const config::ServerConfig& config,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltSweep built, BuildSweep(model, request, config.limits));
  if (request.fast) {
    sweep::FastSweepRun::Plan plan{std::move(built.plan), *request.fast, model.half};
    return Finished<sweep::FastSweepRun>(built, std::move(plan), model, config, metrics, std::move(reply));
  }
  return Finished<sweep::SweepRun>(built, sweep::PiecesOf(std::move(built.plan)), model, config, metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::PathRequest& request, const config::ServerConfig& config,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltPaths built, BuildPaths(model, request, config.limits));
  return Finished<sweep::SweepRun>(built, sweep::PiecesOf(std::move(built.plan)), model, config, metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::AttributionRequest& request, const config::ServerConfig& config,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltAttribution built, BuildAttribution(model, request, config.limits));
  return Finished<attribution::AttributionRun>(built, std::move(built.scoring), model, config, metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::EdgesRequest& request, const config::ServerConfig& config,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltAttribution built, BuildEdges(model, request, config.limits));
  return Finished<attribution::AttributionRun>(built, std::move(built.scoring), model, config, metrics, std::move(reply));
}

absl::StatusOr<api::SweepCost> CostOf(const LoadedModel& model, const api::SweepRequest& request, const config::ServerConfig& config) {
  FS_ASSIGN_OR_RETURN(BuiltSweep built, BuildSweep(model, request, config.limits));
  Complete(built.header, built.hash, model, config);
  return built.header.cost;
}

absl::StatusOr<api::SweepCost> CostOf(const LoadedModel& model, const api::PathRequest& request, const config::ServerConfig& config) {
  FS_ASSIGN_OR_RETURN(BuiltPaths built, BuildPaths(model, request, config.limits));
  Complete(built.header, built.hash, model, config);
  return built.header.cost;
}

}  // namespace fluoroscope::engine
