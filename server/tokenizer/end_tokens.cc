#include "tokenizer/end_tokens.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tokenizer/json_file.h"

namespace fluoroscope::tokenizer {

absl::StatusOr<std::vector<int64_t>> FindEndTokens(const std::string& model_directory) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::string path = absl::StrCat(model_directory, "/", name);
    FS_ASSIGN_OR_RETURN(const nlohmann::json config, ReadJsonFile(path));
    nlohmann::json ids = Field(config, "eos_token_id");
    if (ids.is_null()) continue;
    if (!ids.is_array()) ids = nlohmann::json::array({ids});
    std::vector<int64_t> found;
    for (const nlohmann::json& id : ids) {
      if (!id.is_number_integer())
        return absl::InvalidArgumentError(absl::StrCat(path, ": eos_token_id must be a token id or a list of them"));
      // Configurations write -1 for "none".
      if (id.get<int64_t>() >= 0) found.push_back(id.get<int64_t>());
    }
    return found;
  }
  return std::vector<int64_t>();
}

}  // namespace fluoroscope::tokenizer
