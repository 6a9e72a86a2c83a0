#include "engine/plan_parts.h"

#include <algorithm>

#include "base/status_macros.h"
#include "engine/plan_builder.h"
#include "engine/resolve.h"
#include "engine/resolve_readouts.h"
#include "tensor/chunk.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

// Each captured tensor costs the server a header and a message; a request for more than this has forgotten a selection.
constexpr size_t kMaxTensors = 1 << 18;

absl::Status Reduce(const api::Reduction& reduction, const at::Tensor& directions, uint32_t row, PlanDraft& draft, run::CapturePlan& plan,
                    const std::string& field) {
  const int64_t size = draft.LastAxis(plan.place.site, row);
  const std::string name = model::FullName(plan.place.site, plan.place.layer);
  if (std::holds_alternative<api::ReduceLast>(reduction)) {
    plan.place.positions = {draft.row(row).length() - 1};
  } else if (const auto* top = std::get_if<api::ReduceTopK>(&reduction)) {
    if (top->k < 1 || top->k > size)
      return absl::InvalidArgumentError(field + ".top_k.k is " + std::to_string(top->k) + "; the last axis of " + name + " allows 1 to " +
                                        std::to_string(size));
    plan.top_k = top->k;
  } else if (directions.defined()) {
    if (directions.dim() != 2 || directions.size(1) != size)
      return absl::InvalidArgumentError(field + ".dot.directions must be [n, " + std::to_string(size) + "], the last axis of " + name);
    plan.directions = directions;
  } else if (const auto* lens = std::get_if<api::ReduceLens>(&reduction)) {
    if (model::SpecOf(plan.place.site).axes.back() != model::Axis::kDModel || !plan.place.units.empty())
      return absl::InvalidArgumentError(field + ".lens reads whole vectors of the residual, and " + name + " has none");
    FS_ASSIGN_OR_RETURN(plan.lens, ResolveLens(*lens, draft, field + ".lens"));
  } else if (const auto* writes = std::get_if<api::ReduceWrites>(&reduction)) {
    if (plan.place.site != model::Site::kMlpPost)
      return absl::InvalidArgumentError(field + ".writes is for mlp.hook_post: of " + name + " nothing is written by single units");
    FS_ASSIGN_OR_RETURN(plan.writes, ResolveWrites(*writes, plan.place, draft, field + ".writes"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Item(const char* list, size_t index) { return std::string(list) + "[" + std::to_string(index) + "]"; }

absl::Status AddPrompts(const std::vector<api::Prompt>& prompts, uint64_t max_tokens, PlanDraft& draft, std::vector<api::RowInfo>& rows) {
  if (prompts.empty()) return absl::InvalidArgumentError("prompts is empty; at least one is needed");
  size_t tokens = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto* activations = std::get_if<api::Activations>(&prompts[i].input);
    api::RowInfo info;
    std::optional<run::StartPlan> start;
    if (activations != nullptr) {
      FS_ASSIGN_OR_RETURN(StartedRow row, ResolveActivations(draft.model(), *activations, Item("prompts", i) + ".activations"));
      info = std::move(row.info);
      start = std::move(row.start);
    } else {
      FS_ASSIGN_OR_RETURN(info, ResolvePrompt(draft.model(), prompts[i], Item("prompts", i)));
    }
    tokens += info.token_ids.size();
    if (tokens > max_tokens)
      return absl::ResourceExhaustedError("prompts have more than " + std::to_string(max_tokens) + " tokens together (at prompt " +
                                          std::to_string(i) + " already " + std::to_string(tokens) +
                                          "), this server's limit for a request");
    draft.AddRow(info.token_ids, std::move(start));
    rows.push_back(std::move(info));
  }
  return absl::OkStatus();
}

absl::Status AddCapture(const api::Capture& capture, uint32_t index, PlanDraft& draft, size_t& tensors) {
  const std::string field = Item("captures", index), select = field + ".select";
  FS_ASSIGN_OR_RETURN(const std::vector<PlanDraft::Part> parts, draft.PartsOf(capture.select, /*for_edit=*/false, select));
  FS_ASSIGN_OR_RETURN(const std::vector<uint32_t> rows, ResolveRows(capture.select.rows, draft.rows(), select + ".rows"));
  tensors += parts.size() * rows.size();
  if (tensors > kMaxTensors)
    return absl::ResourceExhaustedError("captures ask for " + std::to_string(tensors) + " tensors; the limit for a request is " +
                                        std::to_string(kMaxTensors));
  at::Tensor directions;
  if (const auto* dot = std::get_if<api::ReduceDot>(&capture.reduction)) {
    FS_ASSIGN_OR_RETURN(directions, tensor::FromChunk(dot->directions));
    FS_ASSIGN_OR_RETURN(directions, tensor::GuardTorch([&] { return directions.to(draft.model().model->device); }));
  }
  for (uint32_t row : rows) {
    FS_ASSIGN_OR_RETURN(const std::vector<int64_t> positions, draft.PositionsOf(capture.select.positions, row, select + ".positions"));
    for (const PlanDraft::Part& part : parts) {
      run::CapturePlan plan;
      FS_ASSIGN_OR_RETURN(plan.place, draft.PlaceOf(part, row, positions, select));
      FS_RETURN_IF_ERROR(draft.CountPositions(positions.size(), select));
      plan.index = index;
      plan.keep_seconds = capture.keep_seconds;
      FS_RETURN_IF_ERROR(Reduce(capture.reduction, directions, row, draft, plan, field + ".reduction"));
      draft.row(row).captures.push_back(std::move(plan));
    }
  }
  return absl::OkStatus();
}

std::string AttentionOf(const run::RunPlan& plan) {
  size_t explicit_rows = 0;
  const auto looks = [](const auto& item) {
    return item.place.site == model::Site::kAttnScores || item.place.site == model::Site::kPattern;
  };
  for (const run::RowPlan& row : plan.rows)
    explicit_rows += std::any_of(row.captures.begin(), row.captures.end(), looks) ||
                     std::any_of(row.keeps.begin(), row.keeps.end(), looks) || std::any_of(row.edits.begin(), row.edits.end(), looks);
  return explicit_rows == 0 ? "fused" : explicit_rows == plan.rows.size() ? "explicit" : "mixed";
}

}  // namespace fluoroscope::engine
