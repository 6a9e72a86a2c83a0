#include "model/unread_tensors.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace fluoroscope::model {
namespace {

constexpr size_t kNamed = 3;
constexpr size_t kNameLength = 120;

// `pattern` may have one '*', for a number.
bool IsBuffer(std::string_view name, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  const std::string_view front = pattern.substr(0, star), back = pattern.substr(star + 1);
  if (name.size() <= front.size() + back.size() || !name.starts_with(front) || !name.ends_with(back)) return false;
  const std::string_view number = name.substr(front.size(), name.size() - front.size() - back.size());
  return std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The file may spell names as it likes, at any length.
std::string Quoted(const std::string& name) {
  return absl::StrCat("\"", absl::CEscape(name.substr(0, kNameLength)), name.size() > kNameLength ? "…" : "", "\"");
}

}  // namespace

absl::Status CheckAllRead(const std::vector<std::string>& names, const std::set<std::string>& taken, const Family& family,
                          std::string_view prefix) {
  std::vector<std::string> unread;
  for (const std::string& name : names) {
    if (taken.contains(name)) continue;
    const auto is_this = [&](std::string_view pattern) { return IsBuffer(std::string_view(name).substr(prefix.size()), pattern); };
    if (!name.starts_with(prefix) || std::none_of(family.buffers.begin(), family.buffers.end(), is_this)) unread.push_back(name);
  }
  if (unread.empty()) return absl::OkStatus();
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(kNamed, unread.size()); ++i) shown.push_back(Quoted(unread[i]));
  const bool one = unread.size() == 1;
  return absl::InvalidArgumentError(absl::StrCat(
      "the checkpoint has ", one ? "a tensor" : absl::StrCat(unread.size(), " tensors"),
      " that config.json does not ask for: ", absl::StrJoin(shown, ", "),
      unread.size() > kNamed ? absl::StrCat(" and ", unread.size() - kNamed, " more") : "", ". Without ", one ? "it" : "them",
      " the model would give other numbers than the one that was saved. Either config.json contradicts the weights (say, in a flag for "
      "biases or in the number of layers), or ",
      one ? "this belongs" : "these belong", " to a part that ", std::string(family.model_type), " models do not have here"));
}

}  // namespace fluoroscope::model
