#include "base/random_id.h"

#include <openssl/rand.h>

#include <cstdlib>

#include "absl/status/status.h"

namespace fluoroscope {
namespace {

// The value of a digit that ToHex writes, else -1. Upper case is refused: one id has one spelling.
int DigitValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

Id128 Id128::Random() {
  Id128 id;
  // It fails only where the operating system has no entropy source; a guessable id would be worse than no server.
  if (RAND_bytes(id.bytes.data(), static_cast<int>(id.bytes.size())) != 1) std::abort();
  return id;
}

absl::StatusOr<Id128> Id128::FromHex(std::string_view hex) {
  Id128 id;
  bool good = hex.size() == 2 * id.bytes.size();
  for (size_t i = 0; good && i < id.bytes.size(); ++i) {
    const int high = DigitValue(hex[2 * i]), low = DigitValue(hex[2 * i + 1]);
    good = high >= 0 && low >= 0;
    id.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (!good) return absl::InvalidArgumentError("an id is 32 lower-case hexadecimal digits, as the server gave it");
  return id;
}

std::string Id128::ToHex() const {
  std::string hex;
  hex.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

}  // namespace fluoroscope
