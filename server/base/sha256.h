// SHA-256, as `sha256sum` prints it: the identity of weights, tokenizers and plans.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fluoroscope {

// One hash being computed. Used by one thread at a time; not copied. Update as often as wanted, then HexDigest once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text))); }

  // The 64 lower-case hexadecimal digits. Ends the hash: afterwards it may only be destroyed or assigned to.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Of bytes that are at hand.
std::string Sha256Hex(std::span<const std::byte> bytes);
std::string Sha256Hex(std::string_view text);

// Of a file's content, read piece by piece. NOT_FOUND or INTERNAL with the file's name and the reason.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

}  // namespace fluoroscope
