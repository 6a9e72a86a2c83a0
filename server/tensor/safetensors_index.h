// `model.safetensors.index.json`: which tensor lies in which file of a checkpoint cut into shards. Free of LibTorch.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fluoroscope::tensor {

// Tensor name -> file name. INVALID_ARGUMENT unless every file name is a plain *.safetensors name in the same directory: a '/', a
// backslash, a leading dot or ".." is refused, so that an index cannot make the server read other files.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(std::string_view json);

}  // namespace fluoroscope::tensor
