// JSON as the files beside a model hold it, read more strictly than usual: what a reader could silently take two ways is an error.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace fluoroscope::tensor {

// Parses one JSON object. INVALID_ARGUMENT for anything else: broken syntax (with the byte), a key given twice in one object (with the
// key; ordinary parsers keep either), nesting deeper than `max_depth` objects and arrays, invalid UTF-8. Throws nothing.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text, int max_depth);

}  // namespace fluoroscope::tensor
