// How a handle is called.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/random_id.h"

namespace fluoroscope::store {

// "9f3c01d2a4b5e677-5d0e...": which process gave it (64 random bits, drawn once by each store), then 128 random bits of its own. So a
// handle of an earlier process is known as such and never mistaken for one that is there.
struct HandleId {
  std::string epoch;  // 16 hexadecimal digits
  Id128 value;

  // INVALID_ARGUMENT for any text that is not one; never echoes it.
  static absl::StatusOr<HandleId> FromText(std::string_view text);
  static std::string RandomEpoch();

  std::string ToText() const { return epoch + "-" + value.ToHex(); }
};

}  // namespace fluoroscope::store
