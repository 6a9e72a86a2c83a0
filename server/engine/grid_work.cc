#include "engine/grid_work.h"

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

template <typename Built>
GridPlan PlanOfBuilt(Built built, const LoadedModel& model, const config::ServerConfig& config) {
  Complete(built.header, built.hash, model, config);
  const auto plan = std::make_shared<decltype(built.plan)>(std::move(built.plan));
  const uint64_t peak_bytes = built.header.cost.peak_bytes;
  return {std::move(built.header), std::move(built.warnings), [plan, peak_bytes](sweep::FinishedCells finished) {
            const bool resumed = finished.count() > 0;
            plan->finished = std::move(finished);
            sweep::Pieces pieces = sweep::PiecesOf(std::move(*plan));
            if (resumed) pieces.fits = peak_bytes;  // of whole grids: of few cells for each pair, many more pairs would go into one piece
            return pieces;
          }};
}

GridWork WorkOfPlan(GridPlan plan, obs::Metrics& metrics, GridReply reply) {
  const uint64_t peak_bytes = plan.header.cost.peak_bytes;
  const double flops = plan.header.cost.flops;
  return {std::make_shared<sweep::SweepRun>(plan.pieces({}), std::move(plan.header), std::move(plan.warnings), std::move(reply.sink),
                                            metrics, reply.arrived),
          peak_bytes, flops};
}

absl::StatusOr<GridWork> WorkOfFast(const LoadedModel& model, const api::SweepRequest& request, const GridContext& context,
                                    obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltSweep built, BuildSweep(model, request, context.config.limits, context.handles));
  Complete(built.header, built.hash, model, context.config);
  built.header.provenance.dtype += ", matrix products in bfloat16";
  const api::SweepCost cost = built.header.cost;
  sweep::FastSweepRun::Plan plan{std::move(built.plan), *request.fast, model.half};
  return GridWork{std::make_shared<sweep::FastSweepRun>(std::move(plan), std::move(built.header), std::move(built.warnings),
                                                        std::move(reply.sink), metrics, reply.arrived),
                  cost.peak_bytes, cost.flops};
}

GridWork WorkOfAttribution(BuiltAttribution built, const LoadedModel& model, const config::ServerConfig& config, obs::Metrics& metrics,
                           GridReply reply) {
  Complete(built.header, built.hash, model, config);
  const uint64_t peak_bytes = built.header.cost.peak_bytes;
  const double flops = built.header.cost.flops;
  return {std::make_shared<attribution::AttributionRun>(std::move(built.scoring), std::move(built.header), std::move(built.warnings),
                                                        std::move(reply.sink), metrics, reply.arrived),
          peak_bytes, flops};
}

}  // namespace

absl::StatusOr<GridPlan> PlanOf(const LoadedModel& model, const api::SweepRequest& request, const GridContext& context) {
  FS_ASSIGN_OR_RETURN(BuiltSweep built, BuildSweep(model, request, context.config.limits, context.handles));
  return PlanOfBuilt(std::move(built), model, context.config);
}

absl::StatusOr<GridPlan> PlanOf(const LoadedModel& model, const api::PathRequest& request, const GridContext& context) {
  FS_ASSIGN_OR_RETURN(BuiltPaths built, BuildPaths(model, request, context.config.limits));
  return PlanOfBuilt(std::move(built), model, context.config);
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::SweepRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply) {
  if (request.fast) return WorkOfFast(model, request, context, metrics, std::move(reply));
  FS_ASSIGN_OR_RETURN(GridPlan plan, PlanOf(model, request, context));
  return WorkOfPlan(std::move(plan), metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::PathRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(GridPlan plan, PlanOf(model, request, context));
  return WorkOfPlan(std::move(plan), metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::AttributionRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltAttribution built, BuildAttribution(model, request, context.config.limits));
  return WorkOfAttribution(std::move(built), model, context.config, metrics, std::move(reply));
}

absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::EdgesRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply) {
  FS_ASSIGN_OR_RETURN(BuiltAttribution built, BuildEdges(model, request, context.config.limits));
  return WorkOfAttribution(std::move(built), model, context.config, metrics, std::move(reply));
}

}  // namespace fluoroscope::engine
