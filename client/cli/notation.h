// How numbers, positions and hook points are written on the command line.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "fluoroscope/v1/plan.pb.h"

namespace fluoroscope::cli {

// "0,2,5-9,-1": numbers and ranges that include both ends.
absl::StatusOr<std::vector<int32_t>> ParseNumbers(const std::string& text);

// The hook point's name without its layer: "resid_pre" is "hook_resid_pre", "z" is "attn.hook_z"; full names stay.
std::string SiteName(const std::string& name);

// Adds what the option says to a repeated field of numbers; nothing for an empty text. INVALID_ARGUMENT, naming the option, for what is no
// list of numbers and for negative ones where the field has none.
template <typename Field>
absl::Status FillNumbers(const std::string& text, const char* option, Field* field) {
  if (text.empty()) return absl::OkStatus();
  auto numbers = ParseNumbers(text);
  if (!numbers.ok()) return absl::InvalidArgumentError(absl::StrCat(option, ": ", numbers.status().message()));
  for (int32_t number : *numbers) {
    if (std::is_unsigned_v<std::decay_t<decltype(field->Get(0))>> && number < 0)
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", number, " is negative; these count from 0"));
    field->Add(number);
  }
  return absl::OkStatus();
}

// The same for positions, but an empty text is wrong: it would mean all.
absl::Status FillPositions(const std::string& text, const char* option, v1::Positions* positions);

}  // namespace fluoroscope::cli
