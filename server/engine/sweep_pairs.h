// Pairs of prompts and their metrics, for sweeps and path patching.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/sweep.h"
#include "config/config.h"
#include "engine/loaded_model.h"
#include "sweep/pieces.h"

namespace fluoroscope::engine {

// Cells that a request may have, over all pairs. Planning takes about a microsecond a cell; results are numbered with 32 bits.
inline constexpr size_t kMaxCells = 200'000;

// An element of a repeated field, as errors name it.
inline std::string At(const std::string& field, size_t index) { return field + "[" + std::to_string(index) + "]"; }

struct ResolvedPairs {
  std::vector<sweep::Pair> pairs;            // tokens and source_of
  std::vector<api::RowInfo> clean, corrupt;  // one per pair
  size_t tokens = 0;                         // of all prompts
};

// `copies`: values go from the source run to the base run, so positions must correspond. Any thread.
absl::StatusOr<ResolvedPairs> ResolvePairs(const LoadedModel& model, const std::vector<api::SweepPair>& pairs,
                                           api::SweepDirection direction, bool copies, const config::Limits& limits);

// Adds `count` to `tokens`; RESOURCE_EXHAUSTED beyond the server's limit for a request.
absl::Status CountPairTokens(size_t count, const config::Limits& limits, const std::string& field, size_t& tokens);

// Gives every pair its metrics; returns their names, in the order of first appearance.
absl::StatusOr<std::vector<std::string>> ResolveSweepMetrics(const LoadedModel& model, const std::vector<api::Metric>& metrics,
                                                             std::vector<sweep::Pair>& pairs);

// Gives the corrupt run of every pair (its base run, unless `noise` says that it is the source) its own edits.
absl::Status ResolveCorruption(const LoadedModel& model, const std::vector<api::Intervention>& interventions, bool noise,
                               std::vector<sweep::Pair>& pairs);

// Of pairs in which no patch can change anything.
void WarnOfSameTokens(const std::vector<sweep::Pair>& pairs, std::vector<std::string>& warnings);

}  // namespace fluoroscope::engine
