// Ids nobody can guess: requests, handles, jobs. 128 random bits, so that knowing an id is enough to be allowed to ask for it, and
// two servers never give the same one.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fluoroscope {

// The bits. Thread-safe as plain values are.
struct Id128 {
  std::array<uint8_t, 16> bytes{};

  // From the operating system's cryptographic generator. Any thread.
  static Id128 Random();

  // The 32 lower-case hexadecimal digits that ToHex writes. INVALID_ARGUMENT for any other text; never echoes it, it may be anything.
  static absl::StatusOr<Id128> FromHex(std::string_view hex);

  std::string ToHex() const;

  auto operator<=>(const Id128&) const = default;  // NOLINT(modernize-use-nullptr): what the compiler makes of it has a 0
};

// An Id128 with a meaning: Id<struct JobTag> and Id<struct HandleTag> do not convert into each other.
template <typename Tag>
class Id {
 public:
  Id() = default;  // all zero: no id
  static Id Random() { return Id(Id128::Random()); }
  static absl::StatusOr<Id> FromHex(std::string_view hex) {
    absl::StatusOr<Id128> value = Id128::FromHex(hex);
    if (!value.ok()) return value.status();
    return Id(*value);
  }

  std::string ToHex() const { return value_.ToHex(); }
  const Id128& value() const { return value_; }

  auto operator<=>(const Id&) const = default;  // NOLINT(modernize-use-nullptr)

 private:
  explicit Id(Id128 value) : value_(value) {}

  Id128 value_;
};

}  // namespace fluoroscope

// The bits are random already: any eight bytes are as good a hash as all.
template <typename Tag>
struct std::hash<fluoroscope::Id<Tag>> {
  size_t operator()(const fluoroscope::Id<Tag>& id) const noexcept {
    size_t hash = 0;
    for (size_t i = 0; i < sizeof(hash); ++i) hash = hash << 8 | id.value().bytes[i];
    return hash;
  }
};
