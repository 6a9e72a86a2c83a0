#include "base/status_macros.h"
#include "engine/given_tensor.h"
#include "engine/plan_builder.h"

namespace fluoroscope::engine {
namespace {

absl::Status CheckIds(const LoadedModel& model, const std::vector<int64_t>& ids, const std::string& field, bool may_be_missing = false) {
  const model::Architecture& arch = model.model->arch;
  if (ids.empty()) return absl::InvalidArgumentError(field + " is empty; a prompt has at least one token");
  if (static_cast<int64_t>(ids.size()) > arch.context)
    return absl::InvalidArgumentError(field + " has " + std::to_string(ids.size()) + " tokens; " + model.name + " has a context of " +
                                      std::to_string(arch.context));
  for (size_t i = 0; i < ids.size() && !may_be_missing; ++i)
    if (ids[i] < 0 || ids[i] >= arch.vocabulary)
      return absl::InvalidArgumentError(field + ": token id " + std::to_string(ids[i]) + " at position " + std::to_string(i) +
                                        " is outside the vocabulary: 0 to " + std::to_string(arch.vocabulary - 1));
  return absl::OkStatus();
}

void AddTexts(const LoadedModel& model, api::RowInfo& row) {
  if (model.tokenizer == nullptr) return;
  for (const int64_t id : row.token_ids) row.tokens.push_back(id == run::kNoToken ? "" : model.tokenizer->TokenText(id));
}

}  // namespace

absl::StatusOr<api::RowInfo> ResolvePrompt(const LoadedModel& model, const api::Prompt& prompt, const std::string& field) {
  api::RowInfo row;
  if (const auto* ids = std::get_if<api::TokenIds>(&prompt.input)) {
    row.token_ids = *ids;
  } else if (std::holds_alternative<api::Activations>(prompt.input)) {
    return absl::InvalidArgumentError(field + ".activations: only Inference runs rows that begin with activations; give text or token ids");
  } else {
    if (model.tokenizer == nullptr)
      return absl::FailedPreconditionError(field + ": " + model.name + " has no tokenizer.json; give token ids instead of text");
    auto encoded = model.tokenizer->Encode(std::get<std::string>(prompt.input), prompt.bos, prompt.parse_special_tokens);
    if (!encoded.ok()) return absl::Status(encoded.status().code(), field + ": " + std::string(encoded.status().message()));
    row.token_ids = std::move(encoded->ids);
    row.bos_added = encoded->bos_added;
  }
  FS_RETURN_IF_ERROR(CheckIds(model, row.token_ids, field));
  AddTexts(model, row);
  return row;
}

absl::StatusOr<StartedRow> ResolveActivations(const LoadedModel& model, const api::Activations& given, const std::string& field) {
  const int64_t d_model = model.model->arch.d_model;
  const std::vector<int64_t>& shape = given.value.shape;
  api::Selection site;
  site.sites = {given.start_at};
  FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> hooks, ResolveSites(model, site, /*for_edit=*/false, field + ".start_at"));
  const model::Site start = hooks.front().site;
  if (hooks.size() != 1 || (start != model::Site::kResidPre && start != model::Site::kResidMid))
    return absl::InvalidArgumentError(field + ".start_at is '" + given.start_at +
                                      "'; a row can start at one layer's hook_resid_pre or hook_resid_mid");
  if (shape.size() != 2 || shape[0] < 1 || shape[1] != d_model)
    return absl::InvalidArgumentError(field + ".value must be [positions, " + std::to_string(d_model) + "]");
  StartedRow row;
  row.info.token_ids = given.token_ids;
  if (given.token_ids.empty()) row.info.token_ids.assign(static_cast<size_t>(shape[0]), run::kNoToken);
  if (static_cast<int64_t>(row.info.token_ids.size()) != shape[0])
    return absl::InvalidArgumentError(field + ".token_ids has " + std::to_string(given.token_ids.size()) + " entries for " +
                                      std::to_string(shape[0]) + " positions; give one each, or none");
  FS_RETURN_IF_ERROR(CheckIds(model, row.info.token_ids, field, /*may_be_missing=*/given.token_ids.empty()));
  AddTexts(model, row.info);
  row.start.at = {hooks.front().layer, start == model::Site::kResidMid ? model::Part::kMlp : model::Part::kAttention};
  FS_ASSIGN_OR_RETURN(row.start.value, GivenTensor(given.value, 1, model));
  return row;
}

}  // namespace fluoroscope::engine
