// The small JSON files beside a tokenizer.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace fluoroscope::tokenizer {

// The object in a JSON file; null when there is no such file. INVALID_ARGUMENT, naming the file, when it is anything else.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

// A field of an object; null when it is not there, or there is no object.
nlohmann::json Field(const nlohmann::json& object, const char* name);

}  // namespace fluoroscope::tokenizer
