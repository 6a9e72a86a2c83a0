// What grids over a pair of prompts share: the prompts, which of their positions belong together, and the metric.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/prompt.h"
#include "client/client.h"
#include "fluoroscope/v1/pairs.pb.h"
#include "fluoroscope/v1/plan.pb.h"

namespace fluoroscope::cli {

struct PairOptions {
  std::string model;
  std::optional<std::string> clean, corrupt;
  std::vector<std::string> answers, foils;
  std::string metric;            // empty: logit_diff with foils, else logits
  std::string source_positions;  // a list of numbers
  bool align = false;            // find source_positions
  PromptOptions how;
};

// MODEL, --clean, --corrupt, --answer, --foil and --metric. `options` outlives the parsing; whether both prompts must be there is the
// caller's to say.
void AddPairOptions(CLI::App& command, PairOptions* options);
// --source-positions, --align and those of prompts.
void AddAlignOptions(CLI::App& command, PairOptions* options);

// INVALID_ARGUMENT for what can be seen to be wrong without the model. The map that `align` asks for is not in it: it needs the tokens.
absl::Status FillPair(const PairOptions& options, v1::SweepPair* pair);
absl::Status FillMetric(const PairOptions& options, v1::Metric* metric);

// Where `options` ask for it: where the tokens of the prompt that is run (the clean one of `noise`) have theirs in the other one. Asks the
// server for the tokens.
absl::Status AlignPair(const client::Client& client, const PairOptions& options, bool noise, v1::SweepPair* pair);

}  // namespace fluoroscope::cli
