#include "engine/sweep_builder.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/status_macros.h"
#include "engine/plan_builder.h"
#include "engine/plan_draft.h"
#include "engine/plan_hash.h"
#include "engine/resolve.h"
#include "engine/resolve_metrics.h"
#include "engine/sweep_grid.h"
#include "engine/sweep_labels.h"
#include "intervention/noise.h"

namespace fluoroscope::engine {
namespace {

using api::SweepAxis;

// Planning takes about a microsecond a cell; results are numbered with 32 bits.
constexpr size_t kMaxCells = 200'000;
// Their values are kept together.
constexpr size_t kMaxReferences = 256;

std::string At(const std::string& field, size_t index) { return field + "[" + std::to_string(index) + "]"; }

class Builder {
 public:
  Builder(const LoadedModel& model, const api::SweepRequest& request, const config::Limits& limits)
      : model_(model), request_(request), limits_(limits), arch_(model.model->arch) {}

  absl::StatusOr<BuiltSweep> Build() {
    built_.plan.model = model_.model;
    built_.plan.cell = request_.cell;
    FS_ASSIGN_OR_RETURN(grid(), ResolveGrid(model_, request_));
    FS_RETURN_IF_ERROR(Pairs());
    FS_RETURN_IF_ERROR(Lenders());
    FS_RETURN_IF_ERROR(Places());
    FS_RETURN_IF_ERROR(ResolveUnitAxis(model_, request_, built_.plan.pairs, grid()));
    const size_t cells = grid().cells();
    if (cells > kMaxCells || cells * request_.pairs.size() > kMaxCells)
      return absl::ResourceExhaustedError("the grid has " + std::to_string(cells) + " cells for each of " +
                                          std::to_string(request_.pairs.size()) + " pairs; the limit for a request is " +
                                          std::to_string(kMaxCells) + " cells together");
    FS_RETURN_IF_ERROR(Metrics());
    built_.header.axes = LabelsOf(request_, built_.plan, IsNoise() ? built_.header.clean : built_.header.corrupt);
    built_.header.cost = sweep::CostOf(built_.plan);
    built_.hash = HashOf(built_.plan);
    return std::move(built_);
  }

 private:
  sweep::Grid& grid() { return built_.plan.grid; }
  bool IsNoise() const { return request_.direction == api::SweepDirection::kNoise; }

  absl::Status CountTokens(size_t count, const std::string& field) {
    tokens_ += count;
    if (tokens_ <= limits_.max_tokens) return absl::OkStatus();
    return absl::ResourceExhaustedError("pairs and references have more than " + std::to_string(limits_.max_tokens) +
                                        " tokens together (at " + field + " already " + std::to_string(tokens_) +
                                        "), this server's limit for a request");
  }

  absl::Status Pairs() {
    for (size_t i = 0; i < request_.pairs.size(); ++i) {
      const std::string field = At("pairs", i);
      FS_ASSIGN_OR_RETURN(api::RowInfo clean, ResolvePrompt(model_, request_.pairs[i].clean, field + ".clean"));
      FS_ASSIGN_OR_RETURN(api::RowInfo corrupt, ResolvePrompt(model_, request_.pairs[i].corrupt, field + ".corrupt"));
      FS_RETURN_IF_ERROR(CountTokens(clean.token_ids.size() + corrupt.token_ids.size(), field));
      sweep::Pair pair;
      pair.base_ids = IsNoise() ? clean.token_ids : corrupt.token_ids;
      pair.source_ids = IsNoise() ? corrupt.token_ids : clean.token_ids;
      FS_RETURN_IF_ERROR(SourcePositions(request_.pairs[i], pair, field));
      if (pair.base_ids == pair.source_ids && request_.cell == api::SweepCell::kPatch)
        built_.warnings.push_back(field + ": both prompts have the same tokens, so no patch can change anything");
      built_.plan.pairs.push_back(std::move(pair));
      built_.header.clean.push_back(std::move(clean));
      built_.header.corrupt.push_back(std::move(corrupt));
    }
    return absl::OkStatus();
  }

  absl::Status SourcePositions(const api::SweepPair& from, sweep::Pair& pair, const std::string& field) {
    const size_t base = pair.base_ids.size(), source = pair.source_ids.size();
    if (from.source_positions && request_.cell != api::SweepCell::kPatch)
      return absl::InvalidArgumentError(field + ".source_positions: only patches have them");
    if (!from.source_positions) {
      if (base != source && request_.cell == api::SweepCell::kPatch)
        return absl::InvalidArgumentError(
            field + ": the prompts have " + std::to_string(source) + " (source) and " + std::to_string(base) +
            " (base) tokens; give source_positions, which says for each base position where its value comes from");
      pair.source_of.resize(base);
      std::iota(pair.source_of.begin(), pair.source_of.end(), 0);
      return absl::OkStatus();
    }
    if (from.source_positions->size() != base)
      return absl::InvalidArgumentError(field + ".source_positions has " + std::to_string(from.source_positions->size()) +
                                        " entries; the base prompt has " + std::to_string(base) +
                                        " tokens, and each needs one (-1 for none)");
    for (int32_t position : *from.source_positions) {
      if (position < -1 || position >= static_cast<int64_t>(source))
        return absl::InvalidArgumentError(field + ".source_positions: " + std::to_string(position) +
                                          " is outside the source prompt, which has " + std::to_string(source) + " tokens: 0 to " +
                                          std::to_string(source - 1) + ", or -1 for none");
      pair.source_of.push_back(position);
    }
    for (model::Site site : grid().sites)
      if (model::SpecOf(site).axes.back() == model::Axis::kKey && base != source)
        return absl::InvalidArgumentError(field + ": " + std::string(model::SpecOf(site).name) +
                                          " has one entry per key token, so both prompts must have the same number of tokens");
    return absl::OkStatus();
  }

  // The prompts that means and resampled values come from.
  absl::Status Lenders() {
    if (request_.cell != api::SweepCell::kMean && request_.cell != api::SweepCell::kResample) {
      if (request_.references.empty()) return absl::OkStatus();
      return absl::InvalidArgumentError("references are given, but neither SWEEP_KIND_MEAN nor SWEEP_KIND_RESAMPLE asks for them");
    }
    std::vector<std::vector<int64_t>> lenders;
    for (size_t i = 0; i < request_.references.size(); ++i) {
      const std::string field = At("references", i);
      FS_ASSIGN_OR_RETURN(api::RowInfo row, ResolvePrompt(model_, request_.references[i], field));
      FS_RETURN_IF_ERROR(CountTokens(row.token_ids.size(), field));
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

  // The places on the position axis, or the one place where all positions are changed together.
  absl::Status Places() {
    const bool over = IsOver(request_, SweepAxis::kPosition);
    if (!request_.groups.empty() && !over) return absl::InvalidArgumentError("groups are given, but SWEEP_AXIS_POSITION is not in `over`");
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

  absl::Status Metrics() {
    // By name, in the order of their first appearance.
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < request_.metrics.size(); ++i) {
      const api::Metric& metric = request_.metrics[i];
      const std::string field = At("metrics", i);
      const auto [it, is_new] = places.try_emplace(metric.name, places.size());
      if (is_new) built_.header.metrics.push_back(metric.name);
      FS_ASSIGN_OR_RETURN(const std::vector<uint32_t> pairs, ResolveRows(metric.rows, built_.plan.pairs.size(), field + ".rows"));
      for (uint32_t index : pairs) {
        sweep::Pair& pair = built_.plan.pairs[index];
        FS_RETURN_IF_ERROR(AddMetric(metric, pair.base_ids, pair.base_metrics, field));
        FS_RETURN_IF_ERROR(AddMetric(metric, pair.source_ids, pair.source_metrics, field));
      }
    }
    for (size_t i = 0; i < built_.plan.pairs.size(); ++i) {
      sweep::Pair& pair = built_.plan.pairs[i];
      const auto place = [&](const run::MetricPlan& metric) { return places.at(metric.name); };
      for (auto* metrics : {&pair.base_metrics, &pair.source_metrics})
        std::sort(metrics->begin(), metrics->end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
      for (const auto& [name, index] : places) {
        const auto count = std::count_if(pair.base_metrics.begin(), pair.base_metrics.end(), [&](const auto& m) { return m.name == name; });
        if (count != 1)
          return absl::InvalidArgumentError("metrics: '" + name + "' is given " + std::to_string(count) + " times for pair " +
                                            std::to_string(i) + "; every pair needs each metric once");
      }
    }
    return absl::OkStatus();
  }

  // Adds the metric as it is for a run of these tokens.
  absl::Status AddMetric(const api::Metric& metric, const std::vector<int64_t>& ids, std::vector<run::MetricPlan>& out,
                         const std::string& field) {
    if (std::holds_alternative<api::ToReference>(metric.kind) || std::holds_alternative<api::ReadOut>(metric.kind))
      return absl::InvalidArgumentError(field +
                                        ": a sweep's metrics are about the logits of each cell alone (logit_difference, mean_logit, " +
                                        "probability, log_probability, cross_entropy, rank); kl, js, l2 and read_out are not among them");
    PlanDraft draft(model_);
    draft.AddRow(ids);
    api::Metric alone = metric;
    alone.rows = {};
    FS_RETURN_IF_ERROR(ResolveMetric(alone, draft, field));
    run::MetricPlan& made = draft.row(0).metrics.front();
    if (made.positions.size() != 1)
      return absl::InvalidArgumentError(field + ".positions are " + std::to_string(made.positions.size()) +
                                        "; a sweep's metric is read at one position");
    out.push_back(std::move(made));
    return absl::OkStatus();
  }

  const LoadedModel& model_;
  const api::SweepRequest& request_;
  const config::Limits& limits_;
  const model::Architecture& arch_;
  BuiltSweep built_;
  size_t tokens_ = 0;
};

}  // namespace

absl::StatusOr<BuiltSweep> BuildSweep(const LoadedModel& model, const api::SweepRequest& request, const config::Limits& limits) {
  return Builder(model, request, limits).Build();
}

}  // namespace fluoroscope::engine
