#include "tokenizer/chat_template.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tokenizer/json_file.h"

namespace fluoroscope::tokenizer {
namespace {

using nlohmann::json;

// The default one of a list of {"name", "template"}, or the text itself.
json DefaultOf(const json& given) {
  if (!given.is_array()) return given;
  for (const json& named : given)
    if (Field(named, "name") == "default") return Field(named, "template");
  return nullptr;
}

}  // namespace

absl::StatusOr<std::optional<api::ChatTemplate>> FindChatTemplate(const std::string& model_directory) {
  const std::string config_path = absl::StrCat(model_directory, "/tokenizer_config.json");
  FS_ASSIGN_OR_RETURN(const json config, ReadJsonFile(config_path));
  api::ChatTemplate found;
  const std::string file_path = absl::StrCat(model_directory, "/chat_template.jinja");
  std::error_code error;
  if (std::filesystem::exists(file_path, error)) {
    std::ostringstream text;
    text << std::ifstream(file_path, std::ios::binary).rdbuf();
    found.text = std::move(text).str();
  } else {
    const json text = DefaultOf(Field(config, "chat_template"));
    if (text.is_null()) return std::nullopt;
    if (!text.is_string())
      return absl::InvalidArgumentError(absl::StrCat(config_path, ": chat_template must be a text or a list of named ones"));
    found.text = text.get<std::string>();
  }
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const json token = Field(config, name);
    const json content = token.is_object() ? Field(token, "content") : token;
    if (content.is_string()) found.special_tokens[name] = content.get<std::string>();
  }
  return found;
}

}  // namespace fluoroscope::tokenizer
