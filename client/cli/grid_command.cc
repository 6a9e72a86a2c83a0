#include "client/cli/grid_command.h"

#include <fmt/core.h>

#include "client/cli/output.h"
#include "client/cli/progress.h"

namespace fluoroscope::cli {
namespace {

// What one method of the client, one field of a job or the other is for.
auto Estimate(const client::Client& client, const v1::SweepRequest& request) { return client.EstimateSweep(request); }
auto Estimate(const client::Client& client, const v1::PathPatchRequest& request) { return client.EstimatePathPatch(request); }
auto Ask(const client::Client& client, const v1::SweepRequest& request, const client::Client::SweepProgress& progress) {
  return client.Sweep(request, progress);
}
auto Ask(const client::Client& client, const v1::PathPatchRequest& request, const client::Client::SweepProgress& progress) {
  return client.PathPatch(request, progress);
}
void Take(const v1::SweepRequest& request, v1::SubmitJobRequest& job) { *job.mutable_sweep() = request; }
void Take(const v1::PathPatchRequest& request, v1::SubmitJobRequest& job) { *job.mutable_path_patch() = request; }

// What the grid would cost; nothing has run.
void PrintEstimate(const Global& global, const v1::SweepEstimate& cost) {
  const double saved = cost.flops() > 0 ? cost.forwards_flops() / cost.flops() : 0;
  if (global.json) {
    PrintJson({{"cells", cost.cells()},
               {"filled_cells", cost.filled_cells()},
               {"flops", cost.flops()},
               {"forwards_flops", cost.forwards_flops()},
               {"peak_bytes", cost.peak_bytes()},
               {"budget_bytes", cost.budget_bytes()}});
    return;
  }
  fmt::print("{}, of which {} need{} no run\n", Counted(cost.cells(), "cell"), cost.filled_cells(), cost.filled_cells() == 1 ? "s" : "");
  fmt::print("{:.1f} GFLOP, {:.1f} times less than a whole forward for each cell\n", cost.flops() / 1e9, saved);
  fmt::print("{} at the peak, of the server's {}\n", Bytes(cost.peak_bytes()), Bytes(cost.budget_bytes()));
}

template <typename Request>
absl::Status Run(const client::Client& client, const Global& global, const GridOptions& options, const Request& request) {
  if (options.estimate) {
    const auto cost = Estimate(client, request);
    if (!cost.ok()) return cost.status();
    PrintEstimate(global, *cost);
    return absl::OkStatus();
  }
  if (options.as_job) {
    v1::SubmitJobRequest job;
    Take(request, job);
    return SubmitJob(client, global, job);
  }
  const auto result = [&] {
    Progress progress;
    return Ask(client, request, [&](size_t done, size_t total) { progress.Show(done, total); });
  }();
  if (!result.ok()) return result.status();
  PrintGrid(TextOf(request), *result, {global.json, options.csv, options.raw});
  return absl::OkStatus();
}

}  // namespace

void AddGridOptions(CLI::App& command, GridOptions* options) {
  command.add_flag("--raw", options->raw, "The heat map shows the metric itself, also where it can be normalised");
  command.add_flag("--csv", options->csv, "One line per cell: labels, value, normalised value");
  command.add_flag("--estimate", options->estimate, "Says what it would cost, without running it");
  command.add_flag("--as-job", options->as_job, "Has the server keep it as a job and prints its id; see `fluoroscope jobs`");
}

absl::Status CheckGridOptions(const Global& global, const GridOptions& options) {
  if (!options.csv) return absl::OkStatus();
  if (global.json) return absl::InvalidArgumentError("--json and --csv exclude each other");
  if (options.estimate) return absl::InvalidArgumentError("--estimate and --csv exclude each other");
  if (options.as_job)
    return absl::InvalidArgumentError("--as-job and --csv exclude each other: `fluoroscope jobs watch ID --csv` gives the result");
  return absl::OkStatus();
}

absl::Status RunGrid(const client::Client& client, const Global& global, const GridOptions& options, const v1::SweepRequest& request) {
  return Run(client, global, options, request);
}
absl::Status RunGrid(const client::Client& client, const Global& global, const GridOptions& options, const v1::PathPatchRequest& request) {
  return Run(client, global, options, request);
}

}  // namespace fluoroscope::cli
