// The options of `fluoroscope path-patch`, and the request that they make.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/pair_options.h"
#include "fluoroscope/v1/models.pb.h"
#include "fluoroscope/v1/path.pb.h"

namespace fluoroscope::cli {

struct PathOptions {
  PairOptions pair;
  std::vector<std::string> senders = {"heads"}, receivers = {"logits"};
  std::string direction = "noise", mlps = "recompute", norms = "recompute";
  std::string sender_positions, receiver_positions;  // lists of numbers; empty: all
};

// `options` outlives the parsing.
void AddPathOptions(CLI::App& command, PathOptions* options);

// `model` says how many layers and heads the words "heads", "q", "mlps" stand for. INVALID_ARGUMENT for what can be seen to be wrong
// without more than that.
absl::StatusOr<v1::PathPatchRequest> MakePathRequest(const PathOptions& options, const v1::ModelInfo& model);

}  // namespace fluoroscope::cli
