#include "engine/sweep_pairs.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/status_macros.h"
#include "engine/plan_builder.h"
#include "engine/plan_draft.h"
#include "engine/resolve.h"
#include "engine/resolve_interventions.h"
#include "engine/resolve_metrics.h"

namespace fluoroscope::engine {
namespace {

absl::Status SourcePositions(const api::SweepPair& from, bool copies, sweep::Pair& pair, const std::string& field) {
  const size_t base = pair.base_ids.size(), source = pair.source_ids.size();
  if (from.source_positions && !copies) return absl::InvalidArgumentError(field + ".source_positions: only patches have them");
  const bool given = !from.source_handles.empty();  // positions are then those of the handles' sequence, which is looked at later
  if (given && !copies)
    return absl::InvalidArgumentError(field + ".source_handles: only the kind patch copies values; ablations take none");
  if (!from.source_positions) {
    if (base != source && copies && !given)
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
    if (given && position < -1)
      return absl::InvalidArgumentError(field + ".source_positions: " + std::to_string(position) +
                                        " is no position of the handles' sequence; they count from 0, -1 is none");
    if (!given && (position < -1 || position >= static_cast<int64_t>(source)))
      return absl::InvalidArgumentError(field + ".source_positions: " + std::to_string(position) +
                                        " is outside the source prompt, which has " + std::to_string(source) + " tokens: 0 to " +
                                        std::to_string(source - 1) + ", or -1 for none");
    pair.source_of.push_back(position);
  }
  return absl::OkStatus();
}

absl::Status ManyPositions(size_t count, const std::string& field) {
  return absl::InvalidArgumentError(field + ".positions are " + std::to_string(count) + "; a sweep's metric is read at one position");
}

// A comparison with the pair's base or source run; the planner makes a kept value of it.
absl::Status AddComparison(const LoadedModel& model, const api::Metric& metric, const api::ToReference& to, const std::vector<int64_t>& ids,
                           std::vector<run::MetricPlan>& out, const std::string& field) {
  const std::string why = model.refused.Why(model::Site::kLnFinalNormalized);
  if (!why.empty()) return absl::FailedPreconditionError("logits: " + why);
  if (to.positions)
    return absl::InvalidArgumentError(field + ": in a sweep the reference is read at the metric's own position, so it has no positions");
  std::vector<int64_t> positions = {static_cast<int64_t>(ids.size()) - 1};
  if (metric.positions) {
    FS_ASSIGN_OR_RETURN(positions, ResolvePositions(model, *metric.positions, ids, field + ".positions"));
  }
  if (positions.size() != 1) return ManyPositions(positions.size(), field);
  using Measure = intervention::ToReference::Measure;
  const Measure measure = to.measure == api::ToReference::Measure::kKl   ? Measure::kKl
                          : to.measure == api::ToReference::Measure::kJs ? Measure::kJs
                                                                         : Measure::kL2;
  const intervention::Kept run = to.row == 0 ? sweep::Pair::kBaseRun : sweep::Pair::kSourceRun;
  out.push_back({metric.name, std::move(positions), intervention::ToReference{measure, run}});
  return absl::OkStatus();
}

// Adds the metric as it is for a run of these tokens.
absl::Status AddMetric(const LoadedModel& model, const api::Metric& metric, const std::vector<int64_t>& ids,
                       std::vector<run::MetricPlan>& out, const std::string& field) {
  if (std::holds_alternative<api::ReadOut>(metric.kind))
    return absl::InvalidArgumentError(field + ": a sweep's metrics are about the logits of each cell (logit_difference, mean_logit, " +
                                      "probability, log_probability, cross_entropy, rank, and kl, js and l2 to the pair's base or source " +
                                      "run); read_out is not among them");
  if (const auto* to = std::get_if<api::ToReference>(&metric.kind)) return AddComparison(model, metric, *to, ids, out, field);
  PlanDraft draft(model);
  draft.AddRow(ids);
  api::Metric alone = metric;
  alone.rows = {};
  FS_RETURN_IF_ERROR(ResolveMetric(alone, draft, field));
  run::MetricPlan& made = draft.row(0).metrics.front();
  if (made.positions.size() != 1) return ManyPositions(made.positions.size(), field);
  out.push_back(std::move(made));
  return absl::OkStatus();
}

}  // namespace

absl::Status CountPairTokens(size_t count, const config::Limits& limits, const std::string& field, size_t& tokens) {
  tokens += count;
  if (tokens <= limits.max_tokens) return absl::OkStatus();
  return absl::ResourceExhaustedError("pairs and references have more than " + std::to_string(limits.max_tokens) + " tokens together (at " +
                                      field + " already " + std::to_string(tokens) + "), this server's limit for a request");
}

absl::StatusOr<ResolvedPairs> ResolvePairs(const LoadedModel& model, const std::vector<api::SweepPair>& pairs,
                                           api::SweepDirection direction, bool copies, const config::Limits& limits) {
  ResolvedPairs out;
  const bool noise = direction == api::SweepDirection::kNoise;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const std::string field = At("pairs", i);
    api::RowInfo clean, corrupt;
    if (pairs[i].clean) {
      FS_ASSIGN_OR_RETURN(clean, ResolvePrompt(model, *pairs[i].clean, field + ".clean"));
    }
    if (pairs[i].corrupt) {
      FS_ASSIGN_OR_RETURN(corrupt, ResolvePrompt(model, *pairs[i].corrupt, field + ".corrupt"));
    }
    FS_RETURN_IF_ERROR(CountPairTokens(clean.token_ids.size() + corrupt.token_ids.size(), limits, field, out.tokens));
    sweep::Pair pair;
    pair.base_ids = noise ? clean.token_ids : corrupt.token_ids;
    pair.source_ids = noise ? corrupt.token_ids : clean.token_ids;
    FS_RETURN_IF_ERROR(SourcePositions(pairs[i], copies, pair, field));
    out.pairs.push_back(std::move(pair));
    out.clean.push_back(std::move(clean));
    out.corrupt.push_back(std::move(corrupt));
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> ResolveSweepMetrics(const LoadedModel& model, const std::vector<api::Metric>& metrics,
                                                             std::vector<sweep::Pair>& pairs) {
  std::map<std::string, size_t> places;
  std::vector<std::string> names;
  for (size_t i = 0; i < metrics.size(); ++i) {
    const api::Metric& metric = metrics[i];
    const std::string field = At("metrics", i);
    const auto [it, is_new] = places.try_emplace(metric.name, places.size());
    if (is_new) names.push_back(metric.name);
    FS_ASSIGN_OR_RETURN(const std::vector<uint32_t> chosen, ResolveRows(metric.rows, pairs.size(), field + ".rows"));
    for (uint32_t index : chosen) {
      FS_RETURN_IF_ERROR(AddMetric(model, metric, pairs[index].base_ids, pairs[index].base_metrics, field));
      if (!pairs[index].source_ids.empty()) {
        FS_RETURN_IF_ERROR(AddMetric(model, metric, pairs[index].source_ids, pairs[index].source_metrics, field));
      } else if (const auto* to = std::get_if<api::ToReference>(&metric.kind); to != nullptr && to->row == 1) {
        return absl::InvalidArgumentError(
            field + " compares with the source run of pair " + std::to_string(index) +
            ", which has handles and no source prompt; compare with the base run (row 0), or give the prompt");
      }
    }
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto place = [&](const run::MetricPlan& metric) { return places.at(metric.name); };
    for (auto* kept : {&pairs[i].base_metrics, &pairs[i].source_metrics})
      std::sort(kept->begin(), kept->end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
    for (const auto& [name, index] : places) {
      const auto count =
          std::count_if(pairs[i].base_metrics.begin(), pairs[i].base_metrics.end(), [&](const auto& m) { return m.name == name; });
      if (count != 1)
        return absl::InvalidArgumentError("metrics: '" + name + "' is given " + std::to_string(count) + " times for pair " +
                                          std::to_string(i) + "; every pair needs each metric once");
    }
  }
  return names;
}

absl::Status ResolveCorruption(const LoadedModel& model, const std::vector<api::Intervention>& interventions, bool noise,
                               std::vector<sweep::Pair>& pairs) {
  if (interventions.empty()) return absl::OkStatus();
  PlanDraft draft(model);
  for (size_t i = 0; i < pairs.size(); ++i) {
    const std::vector<int64_t>& corrupt = noise ? pairs[i].source_ids : pairs[i].base_ids;
    if (corrupt.empty())
      return absl::InvalidArgumentError("corrupt_interventions: " + At("pairs", i) + " has no corrupt prompt whose run they could edit");
    draft.AddRow(corrupt);
  }
  for (size_t i = 0; i < interventions.size(); ++i) {
    const std::string field = At("corrupt_interventions", i);
    const auto of_rows = [](const auto& kind) {
      using Kind = std::decay_t<decltype(kind)>;
      return std::is_same_v<Kind, api::CopyFromRow> || std::is_same_v<Kind, api::MeanOfRows> || std::is_same_v<Kind, api::Interpolate> ||
             std::is_same_v<Kind, api::Resample> || std::is_same_v<Kind, api::SwapSubspace>;
    };
    if (std::visit(of_rows, interventions[i].kind))
      return absl::InvalidArgumentError(field +
                                        " takes values from another row, and a sweep's pairs have no rows to take them from; zero, " +
                                        "a mean or a value that you give, add, scale, project_out and noise are allowed");
    FS_RETURN_IF_ERROR(ResolveIntervention(interventions[i], draft, field));
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    std::vector<run::EditPlan>& edits = draft.row(static_cast<uint32_t>(i)).edits;
    for (const run::EditPlan& edit : edits)
      if (model::SpecOf(edit.place.site).part != model::Part::kEmbedding)
        return absl::InvalidArgumentError("corrupt_interventions: " + model::FullName(edit.place.site, edit.place.layer) +
                                          " lies inside the blocks; only hook_embed and hook_pos_embed can be edited");
    (noise ? pairs[i].source_edits : pairs[i].base_edits) = std::move(edits);
  }
  return absl::OkStatus();
}

void WarnOfSameTokens(const std::vector<sweep::Pair>& pairs, std::vector<std::string>& warnings) {
  for (size_t i = 0; i < pairs.size(); ++i)
    if (pairs[i].given.empty() && pairs[i].base_ids == pairs[i].source_ids && pairs[i].base_edits.empty() && pairs[i].source_edits.empty())
      warnings.push_back(At("pairs", i) + ": both prompts have the same tokens, so no patch can change anything");
}

}  // namespace fluoroscope::engine
