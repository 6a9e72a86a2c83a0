// Requests that are answered with the cells of a grid: what the executor is to run for each.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "api/path.h"
#include "api/sweep.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "sched/work.h"
#include "sweep/finished_cells.h"
#include "sweep/pieces.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

struct GridWork {
  std::shared_ptr<sched::Work> work;
  uint64_t peak_bytes = 0;  // for admission
  double flops = 0;
};

// Where a grid's cells go.
struct GridReply {
  std::shared_ptr<api::SweepSink> sink;
  std::chrono::steady_clock::time_point arrived;
};

// What requests are resolved with, beside the model.
struct GridContext {
  const config::ServerConfig& config;
  RequestHandles handles = {};  // that the request may read; none by default
};

// A grid whose cells may be run in parts: of sweeps and path patching.
struct GridPlan {
  api::SweepHeader header;  // complete; plan_sha256 is there
  std::vector<std::string> warnings;
  std::function<sweep::Pieces(sweep::FinishedCells)> pieces;  // of what is not finished; once
};
absl::StatusOr<GridPlan> PlanOf(const LoadedModel& model, const api::SweepRequest& request, const GridContext& context);
absl::StatusOr<GridPlan> PlanOf(const LoadedModel& model, const api::PathRequest& request, const GridContext& context);

// Resolves a request; runs nothing. `metrics` outlives the work.
absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::SweepRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply);
absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::PathRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply);
absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::AttributionRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply);
absl::StatusOr<GridWork> WorkOf(const LoadedModel& model, const api::EdgesRequest& request, const GridContext& context,
                                obs::Metrics& metrics, GridReply reply);

inline const std::string& ModelOf(const api::SweepRequest& request) { return request.model; }
inline const std::string& ModelOf(const api::PathRequest& request) { return request.model; }
inline const std::string& ModelOf(const api::AttributionRequest& request) { return request.grid.model; }
inline const std::string& ModelOf(const api::EdgesRequest& request) { return request.paths.model; }

}  // namespace fluoroscope::engine
