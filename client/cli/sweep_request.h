// The options of `fluoroscope sweep`, and the request that they make.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/prompt.h"
#include "fluoroscope/v1/patching.pb.h"

namespace fluoroscope::cli {

struct SweepOptions {
  std::string model, clean, corrupt;
  std::vector<std::string> sites = {"resid_pre"}, over = {"layer", "position"};
  std::vector<std::string> answers, foils;
  std::string metric;  // empty: logit_diff with foils, else logits
  std::string direction = "denoise", kind = "patch", precision = "model";
  std::string layers, heads, second_layers, second_heads, positions, units, source_positions;  // lists of numbers
  bool align = false;                                                                          // find source_positions
  std::vector<std::string> groups, references;
  uint32_t window = 1, unit_block = 1;
  uint64_t seed = 0;
  PromptOptions how;
};

// `options` outlives the parsing.
void AddSweepOptions(CLI::App& command, SweepOptions* options);

// INVALID_ARGUMENT for what can be seen to be wrong without the model. The map that `align` asks for is not in it: it needs the tokens.
absl::StatusOr<v1::SweepRequest> MakeSweepRequest(const SweepOptions& options);

// "0,2,5-9,-1": numbers and ranges that include both ends.
absl::StatusOr<std::vector<int32_t>> ParseNumbers(const std::string& text);
// The hook point's name without its layer: "resid_pre" is "hook_resid_pre", "z" is "attn.hook_z"; full names stay.
std::string SiteName(const std::string& name);

}  // namespace fluoroscope::cli
