#include "config/address.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope::config {

absl::StatusOr<Address> ParseAddress(const std::string& text) {
  const auto error = [&](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not an address: ", what, "; write host:port, for instance 127.0.0.1:7070 or [::1]:7070"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return error("it has no port");
  Address address{.host = text.substr(0, colon), .port = 0};
  if (address.host.size() >= 2 && address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return error("an IPv6 address needs brackets");
  }
  if (address.host.empty()) return error("it has no host");
  for (const char c : address.host) {
    if (!isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != ':' && c != '%' && c != '_')
      return error("the host has a strange character");
  }
  const std::string port = text.substr(colon + 1);
  const bool digits = !port.empty() && port.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || !absl::SimpleAtoi(port, &address.port) || address.port > 65535) return error("the port must be a number from 0 to 65535");
  return address;
}

}  // namespace fluoroscope::config
