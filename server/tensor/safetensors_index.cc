#include "tensor/safetensors_index.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tensor/strict_json.h"

namespace fluoroscope::tensor {
namespace {

bool IsPlainFileName(std::string_view name) {
  return name.ends_with(".safetensors") && !name.starts_with('.') && name.size() <= 255 && name.find("..") == std::string_view::npos &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseIndex(std::string_view text) {
  FS_ASSIGN_OR_RETURN(const nlohmann::json index, ParseStrictJson(text, 16));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError("weight_map is missing or not an object of tensor names and file names");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("weight_map: the file of tensor \"", absl::CEscape(tensor), "\" is not a string"));
    }
    const std::string& name = file.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      return absl::InvalidArgumentError(absl::StrCat("weight_map: the file of tensor \"", absl::CEscape(tensor), "\" is \"",
                                                     absl::CEscape(name),
                                                     "\"; only a plain name ending in .safetensors, in the same directory, is allowed"));
    }
    files[tensor] = name;
  }
  if (files.empty()) return absl::InvalidArgumentError("weight_map is empty");
  return files;
}

}  // namespace fluoroscope::tensor
