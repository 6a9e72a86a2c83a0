#include "tensor/strict_json.h"

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::tensor {
namespace {

using nlohmann::json;

// Walks the text without building anything and stops at the first problem, so that a hostile text costs no memory.
class Checker final : public nlohmann::json_sax<json> {
 public:
  explicit Checker(int max_depth) : max_depth_(max_depth) {}
  const std::string& problem() const { return problem_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }

  bool start_object(size_t) override { return Open(); }
  bool start_array(size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& key) override {
    return keys_.back().insert(key).second || Fail(absl::StrCat("the key \"", absl::CEscape(key), "\" is given twice"));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Fail(absl::StrCat("not valid JSON: ", error.what()));
  }

 private:
  bool Open() {
    keys_.emplace_back();
    return static_cast<int>(keys_.size()) <= max_depth_ || Fail(absl::StrCat("nested deeper than ", max_depth_, " levels"));
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }
  bool Fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  const int max_depth_;
  std::vector<std::set<std::string>> keys_;  // of the objects and arrays that are open
  std::string problem_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, int max_depth) {
  Checker checker(max_depth);
  if (!json::sax_parse(text.begin(), text.end(), &checker)) return absl::InvalidArgumentError(checker.problem());
  json result = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (result.is_discarded()) return absl::InvalidArgumentError("not valid JSON");
  if (!result.is_object()) return absl::InvalidArgumentError("not a JSON object");
  return result;
}

}  // namespace fluoroscope::tensor
