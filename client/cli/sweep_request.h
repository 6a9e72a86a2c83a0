// The options of `fluoroscope sweep`, and the request that they make.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/pair_options.h"
#include "fluoroscope/v1/patching.pb.h"

namespace fluoroscope::cli {

struct SweepOptions {
  PairOptions pair;
  std::vector<std::string> sites = {"resid_pre"}, over = {"layer", "position"};
  std::string direction = "denoise", kind = "patch", precision = "model";
  std::string layers, heads, second_layers, second_heads, positions, units;  // lists of numbers
  std::vector<std::string> groups, references, source_handles;
  uint32_t window = 1, unit_block = 1;
  uint64_t seed = 0;
};

// `options` outlives the parsing.
void AddSweepOptions(CLI::App& command, SweepOptions* options);

// Throws CLI::RequiredError, as the parser does, for a prompt that is missing.
void RequireSweepPrompts(const SweepOptions& options);

// INVALID_ARGUMENT for what can be seen to be wrong without the model. The map that `align` asks for is not in it: it needs the tokens.
absl::StatusOr<v1::SweepRequest> MakeSweepRequest(const SweepOptions& options);

}  // namespace fluoroscope::cli
