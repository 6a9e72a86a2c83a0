// Prompts as the command line takes them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "fluoroscope/v1/plan.pb.h"

namespace fluoroscope::cli {

struct PromptOptions {
  std::string bos = "default";
  bool parse_special_tokens = false;
};

// --bos and --parse-special-tokens. `options` outlives the parsing.
void AddPromptOptions(CLI::App& command, PromptOptions* options);

// A prompt of "-" becomes what standard input has.
void ReadDash(std::string* prompt);

// INVALID_ARGUMENT for text that is not UTF-8; `what` names it.
absl::Status SetPrompt(const std::string& text, const std::string& what, const PromptOptions& options, v1::Prompt* prompt);

}  // namespace fluoroscope::cli
