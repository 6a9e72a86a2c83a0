#include "residency/model_store.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::residency {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestName = 64;  // as in the configuration

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kLongestName && name.front() != '.' && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-');
  });
}

}  // namespace

absl::StatusOr<std::string> ModelStore::Find(const std::string& name) const {
  if (!IsName(name))
    return absl::InvalidArgumentError(
        absl::StrCat("model is \"", absl::CEscape(name.substr(0, kLongestName)),
                     "\", which cannot name a model: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' are allowed, not "
                     "beginning with '.'; a model is named, never by a path"));
  const absl::Status missing = absl::NotFoundError(absl::StrCat("no model '", name, "'"));
  if (directory_.empty()) return missing;
  std::error_code error;
  const fs::path store = fs::canonical(directory_, error);
  if (error) return missing;
  const fs::path found = fs::canonical(store / name, error);
  if (error || !fs::is_directory(found, error)) return missing;
  if (found.parent_path() != store)
    return absl::FailedPreconditionError(absl::StrCat("model '", name, "' is a link that leads out of the model store"));
  if (!fs::is_regular_file(found / "config.json", error)) return missing;
  return found.string();
}

std::vector<std::string> ModelStore::Names() const {
  std::vector<std::string> names;
  if (directory_.empty()) return names;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (Find(name).ok()) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fluoroscope::residency
