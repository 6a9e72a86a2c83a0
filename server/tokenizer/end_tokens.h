// Which tokens end a sequence that the model generates.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fluoroscope::tokenizer {

// `eos_token_id`, a number or a list of them, of generation_config.json, else of config.json, as transformers' generate() takes it; empty
// when neither names one. INVALID_ARGUMENT, naming the file, when it is something else.
absl::StatusOr<std::vector<int64_t>> FindEndTokens(const std::string& model_directory);

}  // namespace fluoroscope::tokenizer
