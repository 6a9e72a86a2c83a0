#include "tokenizer/json_file.h"

#include <filesystem>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::tokenizer {

using nlohmann::json;

absl::StatusOr<json> ReadJsonFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return json();
  std::ifstream file(path, std::ios::binary);
  json value = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
  return value;
}

json Field(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  auto found = object.find(name);
  return found == object.end() ? json(nullptr) : *found;
}

}  // namespace fluoroscope::tokenizer
