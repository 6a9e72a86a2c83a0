#include "store/handle_id.h"

#include "absl/status/status.h"

namespace fluoroscope::store {
namespace {

constexpr size_t kEpochDigits = 16;

}  // namespace

absl::StatusOr<HandleId> HandleId::FromText(std::string_view text) {
  bool good = text.size() == kEpochDigits + 1 + 32 && text[kEpochDigits] == '-';
  for (size_t i = 0; good && i < kEpochDigits; ++i) good = std::string_view("0123456789abcdef").find(text[i]) != std::string_view::npos;
  if (good) {
    const absl::StatusOr<Id128> value = Id128::FromHex(text.substr(kEpochDigits + 1));
    if (value.ok()) return HandleId{std::string(text.substr(0, kEpochDigits)), *value};
  }
  return absl::InvalidArgumentError(
      "not a handle: one is 16 and 32 lower-case hexadecimal digits with '-' between them, as the server gave it");
}

std::string HandleId::RandomEpoch() { return Id128::Random().ToHex().substr(0, kEpochDigits); }

}  // namespace fluoroscope::store
