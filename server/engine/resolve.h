// Names, tokens and positions of a request become numbers. All errors teach: what was wrong, what there is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "engine/loaded_model.h"
#include "model/sites.h"

namespace fluoroscope::engine {

// A hook point: a site in a layer (0 for sites outside the blocks).
struct HookPoint {
  model::Site site;
  int64_t layer;
};

// Does `text` match `pattern`, where '*' stands for any run of characters and '?' for any one?
bool GlobMatches(const std::string& pattern, const std::string& text);

// The hook points a selection names, in the order of the forward pass, each once. `field` names the selection in errors.
// NOT_FOUND for a name or glob that matches nothing, FAILED_PRECONDITION for sites this model does not offer.
absl::StatusOr<std::vector<HookPoint>> ResolveSites(const LoadedModel& model, const api::Selection& select, bool for_edit,
                                                    const std::string& field);

// The one hook point of this name, which must be exact. Errors as ResolveSites'.
absl::StatusOr<HookPoint> ExactSite(const LoadedModel& model, const std::string& name, const std::string& field);

// One token's id. INVALID_ARGUMENT when a string encodes to more or fewer than one token (with its pieces), or the id does not exist.
absl::StatusOr<int64_t> ResolveToken(const LoadedModel& model, const api::TokenRef& token, const std::string& field);
absl::StatusOr<std::vector<int64_t>> ResolveTokens(const LoadedModel& model, const std::vector<api::TokenRef>& tokens,
                                                   const std::string& field);

// Absolute positions in a row of these ids, ascending, each once, at least one. INVALID_ARGUMENT when one is outside the row.
absl::StatusOr<std::vector<int64_t>> ResolvePositions(const LoadedModel& model, const api::Positions& positions,
                                                      const std::vector<int64_t>& ids, const std::string& field);

// Checked row numbers, ascending, each once; all rows when empty.
absl::StatusOr<std::vector<uint32_t>> ResolveRows(const std::vector<uint32_t>& rows, size_t count, const std::string& field);

// Checked heads for one site, ascending, each once; empty stays empty (all).
absl::StatusOr<std::vector<int64_t>> ResolveHeads(const LoadedModel& model, const std::vector<uint32_t>& heads, const HookPoint& hook,
                                                  const std::string& field);

// Checked indices of the last axis of one site, ascending, each once; empty stays empty (all). Keys are not checked: how many there are
// depends on the row.
absl::StatusOr<std::vector<int64_t>> ResolveUnits(const LoadedModel& model, const std::vector<uint32_t>& units, const HookPoint& hook,
                                                  const std::string& field);

}  // namespace fluoroscope::engine
