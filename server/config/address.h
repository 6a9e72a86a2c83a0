// "host:port" as written in the configuration.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace fluoroscope::config {

struct Address {
  std::string host;  // a name or an address; IPv6 without brackets
  int port = 0;      // 0: any free one
};

// Takes "127.0.0.1:7070", "localhost:0" and "[::1]:7070". INVALID_ARGUMENT says what is wrong.
absl::StatusOr<Address> ParseAddress(const std::string& text);

}  // namespace fluoroscope::config
