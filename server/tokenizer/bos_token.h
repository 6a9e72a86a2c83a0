// Which token begins a sequence, as the files beside tokenizer.json say. tokenizer.json itself does not name its BOS.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace fluoroscope::tokenizer {

// Looks in tokenizer_config.json (`bos_token`: a string or an object with `content`), then special_tokens_map.json, then config.json
// (`bos_token_id`); a missing file or a null is "not here". nullopt when none of them names one.
// INVALID_ARGUMENT, naming the file, when one is not JSON, or names a token that `token_to_id` does not know (answers -1).
absl::StatusOr<std::optional<int64_t>> FindBosToken(const std::string& model_directory,
                                                    const std::function<int64_t(const std::string&)>& token_to_id);

}  // namespace fluoroscope::tokenizer
