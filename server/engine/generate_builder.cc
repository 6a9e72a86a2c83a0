#include "engine/generate_builder.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "engine/plan_draft.h"
#include "engine/plan_hash.h"
#include "engine/plan_parts.h"
#include "engine/resolve_interventions.h"
#include "generate/cost.h"

namespace fluoroscope::engine {
namespace {

// A selection's positions in two parts: in the prompt, and whether generated tokens are meant too.
struct Split {
  std::optional<api::Positions> prompt;  // absent: none
  bool generated = false;
};

Split SplitPositions(const std::optional<api::Positions>& positions, bool prompt_only) {
  Split split;
  if (!positions) {
    split.prompt = api::Positions{api::AllPositions{}};
    split.generated = !prompt_only;
    return split;
  }
  for (const api::PositionItem& item : *positions) {
    const bool all = std::holds_alternative<api::AllPositions>(item);
    if (all || std::holds_alternative<api::GeneratedPositions>(item)) split.generated = true;
    if (std::holds_alternative<api::GeneratedPositions>(item)) continue;
    if (!split.prompt) split.prompt.emplace();
    split.prompt->push_back(item);
  }
  return split;
}

bool Names(const std::optional<api::Positions>& positions) {
  const auto generated = [](const api::PositionItem& item) { return std::holds_alternative<api::GeneratedPositions>(item); };
  return positions && std::any_of(positions->begin(), positions->end(), generated);
}

// Kinds whose values come from certain positions of another row: a generated token has none of its own there.
bool CopiesPositions(const api::Intervention& intervention) {
  const auto& kind = intervention.kind;
  return std::holds_alternative<api::CopyFromRow>(kind) || std::holds_alternative<api::Interpolate>(kind) ||
         std::holds_alternative<api::Resample>(kind) || std::holds_alternative<api::SwapSubspace>(kind);
}

bool HasKeys(const run::Place& place) { return model::SpecOf(place.site).axes.back() == model::Axis::kKey && place.units.empty(); }

// The keys that a generated token sees are more with every step: what has one number for each of them does not fit.
absl::Status CheckGrowingKeys(const run::EditPlan& plan, const std::string& field) {
  if (!HasKeys(plan.place)) return absl::OkStatus();
  bool per_key = std::holds_alternative<intervention::Mean>(plan.edit) || std::holds_alternative<intervention::ProjectOut>(plan.edit);
  const auto wide = [](const at::Tensor& value) { return value.dim() > 0 && value.size(-1) > 1; };
  if (const auto* set = std::get_if<intervention::Set>(&plan.edit)) per_key = wide(set->value);
  if (const auto* add = std::get_if<intervention::Add>(&plan.edit)) per_key = wide(add->value);
  if (!per_key) return absl::OkStatus();
  return absl::InvalidArgumentError(field + " has a number for each key of " + model::FullName(plan.place.site, plan.place.layer) +
                                    ", but generated tokens see more and more keys; choose keys by units, or positions in the prompt");
}

// Resolves the parts of a request, for the prompts and for what they generate.
class GenerateBuilder {
 public:
  GenerateBuilder(const api::GenerateRequest& request, PlanDraft& draft, generate::GeneratePlan& plan)
      : request_(request), draft_(draft), plan_(plan), generating_(request.prompts.size() - request.sources) {}

  absl::Status AddContinuations() {
    const int64_t context = draft_.arch().context;
    for (uint32_t i = 0; i < generating_; ++i) {
      const int64_t length = draft_.row(i).length();
      if (length + static_cast<int64_t>(request_.max_new_tokens) > context)
        return absl::InvalidArgumentError("max_new_tokens is " + std::to_string(request_.max_new_tokens) + " and " + Item("prompts", i) +
                                          " has " + std::to_string(length) + " tokens; together they must fit the context of " +
                                          draft_.model().name + ", " + std::to_string(context));
      plan_.continuations.push_back({.prompt = i, .k = {}, .v = {}, .logits = 0, .edits = {}, .captures = {}});
    }
    return absl::OkStatus();
  }

  absl::Status AddIntervention(size_t index) {
    api::Intervention part = request_.interventions[index];
    const std::string field = Item("interventions", index);
    const bool copies = CopiesPositions(part);
    if (copies && Names(part.select.positions))
      return absl::InvalidArgumentError(field + ".select.positions: a kind that takes values from another row's positions acts on the " +
                                        "prompt only, for a generated token has no such position there");
    const Split split = SplitPositions(part.select.positions, copies);
    FS_RETURN_IF_ERROR(CheckRows(part.select, split, field));
    if (split.prompt) {
      part.select.positions = split.prompt;
      FS_RETURN_IF_ERROR(ResolveIntervention(part, draft_, field));
    }
    if (!split.generated) return absl::OkStatus();
    // Any one position will do: each token puts its own in its place.
    part.select.positions = api::Positions{api::LastPosition{}};
    std::vector<size_t> before;
    for (uint32_t row = 0; row < draft_.rows(); ++row) before.push_back(draft_.row(row).edits.size());
    FS_RETURN_IF_ERROR(ResolveIntervention(part, draft_, field));
    for (uint32_t row = 0; row < draft_.rows(); ++row) {
      std::vector<run::EditPlan> edits = TakeTail(draft_.row(row).edits, before[row]);
      if (row >= generating_) continue;
      for (run::EditPlan& edit : edits) {
        FS_RETURN_IF_ERROR(CheckGrowingKeys(edit, field));
        plan_.continuations[row].edits.push_back(std::move(edit));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddCapturesOf(size_t index) {
    api::Capture part = request_.captures[index];
    const std::string field = Item("captures", index);
    const bool last = std::holds_alternative<api::ReduceLast>(part.reduction);
    const Split split = SplitPositions(part.select.positions, /*prompt_only=*/last);
    FS_RETURN_IF_ERROR(CheckRows(part.select, split, field));
    const auto number = static_cast<uint32_t>(index);
    if (split.prompt) {
      part.select.positions = split.prompt;
      FS_RETURN_IF_ERROR(AddCapture(part, number, draft_, tensors_));
    }
    if (!split.generated) return absl::OkStatus();
    part.select.positions = api::Positions{api::LastPosition{}};
    std::vector<size_t> before;
    for (uint32_t row = 0; row < draft_.rows(); ++row) before.push_back(draft_.row(row).captures.size());
    FS_RETURN_IF_ERROR(AddCapture(part, number, draft_, tensors_));
    for (uint32_t row = 0; row < draft_.rows(); ++row) {
      std::vector<run::CapturePlan> captures = TakeTail(draft_.row(row).captures, before[row]);
      if (row >= generating_) continue;
      for (run::CapturePlan& capture : captures) {
        if (capture.directions.defined() && HasKeys(capture.place))
          return absl::InvalidArgumentError(field +
                                            ".reduction.dot: generated tokens see more and more keys; choose positions in the prompt");
        plan_.continuations[row].captures.push_back(std::move(capture));
      }
    }
    return absl::OkStatus();
  }

  // What generation itself needs of the prompts.
  absl::Status KeepForContinuations() {
    const model::Site keys = draft_.arch().positions == model::PositionScheme::kRotary ? model::Site::kRotK : model::Site::kK;
    for (generate::ContinuationPlan& continuation : plan_.continuations) {
      const auto row = static_cast<uint32_t>(continuation.prompt);
      std::vector<int64_t> all(draft_.row(row).ids.size());
      std::iota(all.begin(), all.end(), 0);
      for (int64_t layer = 0; layer < draft_.arch().layers; ++layer) {
        FS_ASSIGN_OR_RETURN(const size_t k, draft_.Keep(row, {keys, layer, all, {}, {}}, Item("prompts", row)));
        FS_ASSIGN_OR_RETURN(const size_t v, draft_.Keep(row, {model::Site::kV, layer, all, {}, {}}, Item("prompts", row)));
        continuation.k.push_back(k);
        continuation.v.push_back(v);
      }
      FS_ASSIGN_OR_RETURN(continuation.logits, draft_.KeepLogits(row, {all.back()}, /*log_probabilities=*/false, Item("prompts", row)));
    }
    return absl::OkStatus();
  }

 private:
  template <typename T>
  static std::vector<T> TakeTail(std::vector<T>& list, size_t from) {
    const auto begin = list.begin() + static_cast<std::ptrdiff_t>(from);
    std::vector<T> tail(std::make_move_iterator(begin), std::make_move_iterator(list.end()));
    list.erase(begin, list.end());
    return tail;
  }

  // A row that is only read from has no generated tokens: to want nothing else of it is a mistake.
  absl::Status CheckRows(const api::Selection& select, const Split& split, const std::string& field) const {
    if (split.prompt) return absl::OkStatus();
    for (const uint32_t row : select.rows)
      if (row >= generating_)
        return absl::InvalidArgumentError(field + ".select: row " + std::to_string(row) + " is one of the last " +
                                          std::to_string(request_.sources) + " prompts (sources), which generate nothing");
    return absl::OkStatus();
  }

  const api::GenerateRequest& request_;
  PlanDraft& draft_;
  generate::GeneratePlan& plan_;
  const size_t generating_;  // the first so many prompts
  size_t tensors_ = 0;
};

// Whether some generated token attends explicitly.
bool LooksInside(const generate::ContinuationPlan& continuation) {
  const auto looks = [](const auto& item) {
    return item.place.site == model::Site::kAttnScores || item.place.site == model::Site::kPattern;
  };
  return std::any_of(continuation.edits.begin(), continuation.edits.end(), looks) ||
         std::any_of(continuation.captures.begin(), continuation.captures.end(), looks);
}

absl::Status CheckSizes(const LoadedModel& model, const api::GenerateRequest& request, const config::Limits& limits) {
  const int64_t vocabulary = model.model->arch.vocabulary;
  const uint64_t rows = uint64_t{request.prompts.size() - request.sources} * request.samples;
  if (rows > limits.max_prompts)
    return absl::ResourceExhaustedError("prompts times samples is " + std::to_string(rows) + "; this server takes at most " +
                                        std::to_string(limits.max_prompts) + " in one request (limits.max_prompts)");
  if (request.sampling.top_k > vocabulary)
    return absl::InvalidArgumentError("sampling.top_k is " + std::to_string(request.sampling.top_k) + "; " + model.name +
                                      " has a vocabulary of " + std::to_string(vocabulary));
  if (request.top_logprobs > vocabulary)
    return absl::InvalidArgumentError("top_logprobs is " + std::to_string(request.top_logprobs) + "; " + model.name +
                                      " has a vocabulary of " + std::to_string(vocabulary));
  if (!request.stop.empty() && model.tokenizer == nullptr)
    return absl::FailedPreconditionError("stop: " + model.name + " has no tokenizer.json, so what it generates has no text");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BuiltGeneration> BuildGeneration(const std::shared_ptr<const LoadedModel>& model, const api::GenerateRequest& request,
                                                const config::Limits& limits, RequestHandles handles) {
  FS_RETURN_IF_ERROR(CheckSizes(*model, request, limits));
  BuiltGeneration built;
  generate::GeneratePlan& plan = built.plan;
  PlanDraft draft(*model, std::move(handles));
  FS_RETURN_IF_ERROR(AddPrompts(request.prompts, limits.max_tokens, draft, built.header.rows));
  GenerateBuilder builder(request, draft, plan);
  FS_RETURN_IF_ERROR(builder.AddContinuations());
  for (size_t i = 0; i < request.interventions.size(); ++i) FS_RETURN_IF_ERROR(builder.AddIntervention(i));
  for (size_t i = 0; i < request.captures.size(); ++i) FS_RETURN_IF_ERROR(builder.AddCapturesOf(i));
  FS_RETURN_IF_ERROR(builder.KeepForContinuations());
  FS_ASSIGN_OR_RETURN(plan.prompts, draft.Finish());
  plan.prompts.isolated = request.isolated;
  const api::Sampling& sampling = request.sampling;
  plan.sampling = {sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty, sampling.seed};
  plan.samples = request.samples;
  plan.max_new_tokens = request.max_new_tokens;
  plan.stop = request.stop;
  if (!request.ignore_eos) plan.end_tokens = model->end_of_sequence;
  plan.top_logprobs = request.top_logprobs;
  plan.tokenizer = std::shared_ptr<const tokenizer::Tokenizer>(model, model->tokenizer.get());
  built.cost = generate::CostOf(plan);
  built.hash = HashOf(plan);
  built.attention = AttentionOf(plan.prompts);
  if (built.attention == "fused" && std::any_of(plan.continuations.begin(), plan.continuations.end(), LooksInside))
    built.attention = "mixed";
  return built;
}

}  // namespace fluoroscope::engine
