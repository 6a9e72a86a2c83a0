#include "engine/sweep_builder.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "engine/plan_builder.h"
#include "engine/plan_hash.h"
#include "engine/resolve.h"
#include "engine/sweep_grid.h"
#include "engine/sweep_handles.h"
#include "engine/sweep_labels.h"
#include "engine/sweep_pairs.h"
#include "intervention/noise.h"

namespace fluoroscope::engine {
namespace {

using api::SweepAxis;

// Their values are kept together.
constexpr size_t kMaxReferences = 256;

class SweepBuilder {
 public:
  SweepBuilder(const LoadedModel& model, const api::SweepRequest& request, const config::Limits& limits, RequestHandles handles)
      : model_(model), request_(request), limits_(limits), handles_(std::move(handles)) {}

  absl::StatusOr<BuiltSweep> Build() {
    built_.plan.model = model_.model;
    built_.plan.cell = request_.cell;
    FS_ASSIGN_OR_RETURN(grid(), ResolveGrid(model_, request_));
    FS_RETURN_IF_ERROR(Pairs());
    FS_RETURN_IF_ERROR(Lenders());
    FS_RETURN_IF_ERROR(Places());
    FS_RETURN_IF_ERROR(ResolveUnitAxis(model_, request_, built_.plan.pairs, grid()));
    FS_RETURN_IF_ERROR(ResolveSourceHandles(model_, request_, handles_, built_.plan));
    if (request_.cell == api::SweepCell::kPatch) WarnOfSameTokens(built_.plan.pairs, built_.warnings);
    const size_t cells = grid().cells();
    if (cells > kMaxCells || cells * request_.pairs.size() > kMaxCells)
      return absl::ResourceExhaustedError(
          "the grid has " + std::to_string(cells) + " cells for each of " + std::to_string(request_.pairs.size()) + " pairs, " +
          std::to_string(cells * request_.pairs.size()) + " together; the limit for a request is " + std::to_string(kMaxCells));
    FS_ASSIGN_OR_RETURN(built_.header.metrics, ResolveSweepMetrics(model_, request_.metrics, built_.plan.pairs));
    built_.header.axes = LabelsOf(request_, built_.plan, IsNoise() ? built_.header.clean : built_.header.corrupt);
    built_.header.cost = sweep::CostOf(built_.plan);
    FS_RETURN_IF_ERROR(Fast());
    built_.hash = HashOf(built_.plan, request_.fast);
    return std::move(built_);
  }

 private:
  sweep::Grid& grid() { return built_.plan.grid; }
  bool IsNoise() const { return request_.direction == api::SweepDirection::kNoise; }

  absl::Status Pairs() {
    const bool copies = request_.cell == api::SweepCell::kPatch;
    FS_ASSIGN_OR_RETURN(ResolvedPairs pairs, ResolvePairs(model_, request_.pairs, request_.direction, copies, limits_));
    built_.plan.pairs = std::move(pairs.pairs);
    built_.header.clean = std::move(pairs.clean);
    built_.header.corrupt = std::move(pairs.corrupt);
    tokens_ = pairs.tokens;
    for (size_t i = 0; i < built_.plan.pairs.size(); ++i) {
      const sweep::Pair& pair = built_.plan.pairs[i];
      for (model::Site site : grid().sites)
        if (request_.pairs[i].source_positions && request_.pairs[i].source_handles.empty() &&
            model::SpecOf(site).axes.back() == model::Axis::kKey && pair.base_ids.size() != pair.source_ids.size())
          return absl::InvalidArgumentError(At("pairs", i) + ": " + std::string(model::SpecOf(site).name) +
                                            " has one entry per key token, so both prompts must have the same number of tokens");
    }
    return ResolveCorruption(model_, request_.corrupt_interventions, IsNoise(), built_.plan.pairs);
  }

  // The prompts that means and resampled values come from.
  absl::Status Lenders() {
    if (request_.cell != api::SweepCell::kMean && request_.cell != api::SweepCell::kResample) {
      if (request_.references.empty()) return absl::OkStatus();
      return absl::InvalidArgumentError("references are given, but only the kinds mean and resample take values from them");
    }
    std::vector<std::vector<int64_t>> lenders;
    for (size_t i = 0; i < request_.references.size(); ++i) {
      const std::string field = At("references", i);
      FS_ASSIGN_OR_RETURN(api::RowInfo row, ResolvePrompt(model_, request_.references[i], field));
      FS_RETURN_IF_ERROR(CountPairTokens(row.token_ids.size(), limits_, field, tokens_));
      lenders.push_back(std::move(row.token_ids));
    }
    if (request_.references.empty())
      for (const sweep::Pair& pair : built_.plan.pairs) lenders.push_back(pair.source_ids);
    if (request_.cell == api::SweepCell::kResample) return Draw(lenders);
    if (lenders.size() > kMaxReferences)
      return absl::ResourceExhaustedError("a mean is taken over at most " + std::to_string(kMaxReferences) + " prompts, not " +
                                          std::to_string(lenders.size()) + "; list that many references");
    for (model::Site site : grid().sites)
      for (const sweep::Pair& pair : built_.plan.pairs)
        for (const std::vector<int64_t>& lender : lenders)
          if (model::SpecOf(site).axes.back() == model::Axis::kKey && lender.size() != pair.base_ids.size())
            return absl::InvalidArgumentError("references: " + std::string(model::SpecOf(site).name) +
                                              " has one entry per key token, so all prompts must have the same number of tokens");
    built_.plan.references = std::move(lenders);
    return absl::OkStatus();
  }

  // Whose values each pair gets: one of the prompts that are as long as its base prompt.
  absl::Status Draw(const std::vector<std::vector<int64_t>>& lenders) {
    for (size_t i = 0; i < built_.plan.pairs.size(); ++i) {
      sweep::Pair& pair = built_.plan.pairs[i];
      std::vector<size_t> fit;
      for (size_t j = 0; j < lenders.size(); ++j)
        if (lenders[j].size() == pair.base_ids.size() && (j != i || !request_.references.empty())) fit.push_back(j);
      if (fit.empty())
        return absl::InvalidArgumentError("references: none is as long as the base prompt of pair " + std::to_string(i) + ", which has " +
                                          std::to_string(pair.base_ids.size()) +
                                          " tokens (without references those of the other pairs count)");
      pair.donor_ids = lenders[fit[intervention::Philox({static_cast<uint32_t>(i), 0, 0, 0}, request_.seed)[0] % fit.size()]];
    }
    return absl::OkStatus();
  }

  absl::Status Fast() {
    if (!request_.fast) return absl::OkStatus();
    if (model_.model->dtype != at::kFloat)
      return absl::FailedPreconditionError("precision: fast needs a model in float32; " + model_.name + " is in " +
                                           at::toString(model_.model->dtype));
    return absl::OkStatus();
  }

  // The places on the position axis, or the one place where all positions are changed together.
  absl::Status Places() {
    const bool over = IsOver(request_, SweepAxis::kPosition);
    if (!request_.groups.empty() && !over) return absl::InvalidArgumentError("groups are given, but 'position' is not in `over`");
    for (size_t i = 0; i < built_.plan.pairs.size(); ++i) {
      sweep::Pair& pair = built_.plan.pairs[i];
      for (size_t g = 0; g < request_.groups.size(); ++g) {
        const api::SweepGroup& group = request_.groups[g];
        const api::Positions& positions = group.positions.size() == 1 ? group.positions.front() : group.positions[i];
        FS_ASSIGN_OR_RETURN(std::vector<int64_t> places,
                            ResolvePositions(model_, positions, pair.base_ids, At("groups", g) + " (pair " + std::to_string(i) + ")"));
        pair.groups.push_back(std::move(places));
      }
      if (!request_.groups.empty()) continue;
      const api::Positions chosen = request_.positions ? *request_.positions : api::Positions{api::AllPositions()};
      FS_ASSIGN_OR_RETURN(std::vector<int64_t> places,
                          ResolvePositions(model_, chosen, pair.base_ids, "positions (pair " + std::to_string(i) + ")"));
      if (!over) {
        pair.groups.push_back(std::move(places));
        continue;
      }
      for (int64_t place : places) pair.groups.push_back({place});
      if (pair.groups.size() != built_.plan.pairs.front().groups.size())
        return absl::InvalidArgumentError("pair " + std::to_string(i) + " has " + std::to_string(pair.groups.size()) +
                                          " positions on the position axis and pair 0 has " +
                                          std::to_string(built_.plan.pairs.front().groups.size()) +
                                          "; for prompts of unequal length name position groups, such as the subject's, for each pair");
    }
    grid().groups = built_.plan.pairs.front().groups.size();
    return absl::OkStatus();
  }

  const LoadedModel& model_;
  const api::SweepRequest& request_;
  const config::Limits& limits_;
  RequestHandles handles_;
  BuiltSweep built_;
  size_t tokens_ = 0;
};

}  // namespace

absl::StatusOr<BuiltSweep> BuildSweep(const LoadedModel& model, const api::SweepRequest& request, const config::Limits& limits,
                                      RequestHandles handles) {
  return SweepBuilder(model, request, limits, std::move(handles)).Build();
}

}  // namespace fluoroscope::engine
