// The commands that ask for a grid of cells: what they do with their request.
#pragma once

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "client/cli/command.h"
#include "client/cli/sweep_output.h"

namespace fluoroscope::cli {

struct GridOptions {
  bool csv = false, raw = false, estimate = false, as_job = false;
};

// --raw, --csv, --estimate and --as-job. `options` outlives the parsing.
void AddGridOptions(CLI::App& command, GridOptions* options);

// INVALID_ARGUMENT for forms of output that exclude each other; to be asked before the server is.
absl::Status CheckGridOptions(const Global& global, const GridOptions& options);

// Estimates, submits or runs the request, as `options` say, and prints the answer.
absl::Status RunGrid(const client::Client& client, const Global& global, const GridOptions& options, const v1::SweepRequest& request);
absl::Status RunGrid(const client::Client& client, const Global& global, const GridOptions& options, const v1::PathPatchRequest& request);

}  // namespace fluoroscope::cli
