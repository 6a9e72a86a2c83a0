#include "client/cli/notation.h"

#include <charconv>
#include <set>

namespace fluoroscope::cli {
namespace {

// A typo in a range must not fill the memory.
constexpr int64_t kMaxNumbers = 1 << 20;

const char* Number(const char* at, const char* end, int32_t* value) {
  const auto [next, error] = std::from_chars(at, end, *value);
  return error == std::errc() ? next : nullptr;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseNumbers(const std::string& text) {
  std::vector<int32_t> numbers;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    int32_t first = 0, last = 0;
    at = Number(at, end, &first);
    last = first;
    if (at != nullptr && at != end && *at == '-') at = Number(at + 1, end, &last);
    if (at == nullptr || (at != end && *at != ',') || last < first)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a list of numbers and ranges such as 0,2,5-9,-1"));
    if (int64_t{last} - first + static_cast<int64_t>(numbers.size()) >= kMaxNumbers)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' has more than ", kMaxNumbers, " numbers"));
    for (int64_t number = first; number <= last; ++number) numbers.push_back(static_cast<int32_t>(number));
    if (at == end) return numbers;
    ++at;
  }
}

std::string SiteName(const std::string& name) {
  for (const char* prefix : {"blocks.*.", "blocks.{l}."})
    if (name.starts_with(prefix)) return name.substr(std::string(prefix).size());
  if (name.find("hook_") != std::string::npos) return name;
  static const std::set<std::string> attention = {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"};
  static const std::set<std::string> mlp = {"pre", "pre_linear", "post"};
  return (attention.contains(name) ? "attn." : mlp.contains(name) ? "mlp." : "") + ("hook_" + name);
}

absl::Status FillPositions(const std::string& text, const char* option, v1::Positions* positions) {
  auto numbers = ParseNumbers(text);
  if (!numbers.ok()) return absl::InvalidArgumentError(absl::StrCat(option, ": ", numbers.status().message()));
  for (int32_t number : *numbers) positions->add_items()->set_index(number);
  return absl::OkStatus();
}

}  // namespace fluoroscope::cli
