// A model's chat template, as its directory has it. It is a program for a client to run; here it is only read.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "api/results.h"

namespace fluoroscope::tokenizer {

// chat_template.jinja, else `chat_template` of tokenizer_config.json (a text, or a list of named ones, of which "default" counts); nullopt
// without one. INVALID_ARGUMENT, naming the file, when a file is broken.
absl::StatusOr<std::optional<api::ChatTemplate>> FindChatTemplate(const std::string& model_directory);

}  // namespace fluoroscope::tokenizer
