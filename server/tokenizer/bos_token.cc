#include "tokenizer/bos_token.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tokenizer/json_file.h"

namespace fluoroscope::tokenizer {
namespace {

using nlohmann::json;

absl::StatusOr<int64_t> IdOf(const std::string& path, const json& token, const std::function<int64_t(const std::string&)>& token_to_id) {
  json content = token.is_object() ? Field(token, "content") : token;
  if (!content.is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": bos_token must be a string, or an object with a string `content`"));
  }
  const auto& text = content.get_ref<const std::string&>();
  int64_t id = token_to_id(text);
  if (id < 0)
    return absl::InvalidArgumentError(absl::StrCat(path, ": bos_token \"", text, "\" is not in the vocabulary of tokenizer.json"));
  return id;
}

}  // namespace

absl::StatusOr<std::optional<int64_t>> FindBosToken(const std::string& model_directory,
                                                    const std::function<int64_t(const std::string&)>& token_to_id) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string path = absl::StrCat(model_directory, "/", name);
    FS_ASSIGN_OR_RETURN(json object, ReadJsonFile(path));
    json token = Field(object, "bos_token");
    if (token.is_null()) continue;
    FS_ASSIGN_OR_RETURN(int64_t id, IdOf(path, token, token_to_id));
    return id;
  }
  FS_ASSIGN_OR_RETURN(json config, ReadJsonFile(absl::StrCat(model_directory, "/config.json")));
  json id = Field(config, "bos_token_id");
  if (id.is_number_unsigned()) return id.get<int64_t>();
  return std::nullopt;
}

}  // namespace fluoroscope::tokenizer
