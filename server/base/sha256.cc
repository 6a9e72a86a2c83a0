#include "base/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fluoroscope {
namespace {

// OpenSSL's digest calls fail only when memory is gone or a hash is used after its end; neither has an answer that is not wrong.
void MustSucceed(int result) {
  if (result != 1) std::abort();
}

// EVP_sha256() would be looked up by its name at every use.
const EVP_MD* Algorithm() {
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (algorithm == nullptr) std::abort();
  return algorithm;
}

}  // namespace

struct Sha256::Context {
  Context() : md(EVP_MD_CTX_new()) {
    if (md == nullptr) std::abort();
    MustSucceed(EVP_DigestInit_ex(md, Algorithm(), nullptr));
  }
  ~Context() { EVP_MD_CTX_free(md); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  EVP_MD_CTX* md;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::span<const std::byte> bytes) { MustSucceed(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size())); }

std::string Sha256::HexDigest() {
  std::array<unsigned char, 32> digest{};
  MustSucceed(EVP_DigestFinal_ex(context_->md, digest.data(), nullptr));
  std::string hex;
  hex.reserve(2 * digest.size());
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

std::string Sha256Hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.HexDigest();
}

std::string Sha256Hex(std::string_view text) { return Sha256Hex(std::as_bytes(std::span(text))); }

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) {
    const int error = errno;
    const std::string message = absl::StrCat("cannot open ", path, ": ", std::strerror(error));
    return error == ENOENT || error == ENOTDIR ? absl::NotFoundError(message) : absl::InternalError(message);
  }
  Sha256 hash;
  std::vector<std::byte> buffer(size_t{1} << 20);
  while (const size_t size = std::fread(buffer.data(), 1, buffer.size(), file.get())) hash.Update(std::span(buffer).first(size));
  if (std::ferror(file.get()) != 0) return absl::InternalError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  return hash.HexDigest();
}

}  // namespace fluoroscope
