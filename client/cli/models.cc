// fluoroscope models
#include <fmt/core.h>

#include "client/cli/command.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

const char* StateName(v1::UnloadedModel::State state) {
  switch (state) {
    case v1::UnloadedModel::STATE_AVAILABLE:
      return "available";
    case v1::UnloadedModel::STATE_LOADING:
      return "loading";
    case v1::UnloadedModel::STATE_UNLOADING:
      return "unloading";
    default:
      return "unknown";
  }
}

nlohmann::ordered_json ModelJson(const v1::UnloadedModel& model) {
  return {{"name", model.name()},
          {"state", StateName(model.state())},
          {"loaded_bytes", model.loaded_bytes()},
          {"total_bytes", model.total_bytes()}};
}

nlohmann::ordered_json ModelJson(const v1::ModelInfo& model) {
  return {{"name", model.name()},
          {"state", "loaded"},
          {"family", model.family()},
          {"layers", model.layers()},
          {"d_model", model.d_model()},
          {"heads", model.heads()},
          {"kv_heads", model.kv_heads()},
          {"d_head", model.d_head()},
          {"d_mlp", model.d_mlp()},
          {"vocabulary", model.vocabulary()},
          {"context", model.context()},
          {"parameters", model.parameters()},
          {"weight_bytes", model.weight_bytes()},
          {"dtype", model.dtype()},
          {"device", model.device()},
          {"default_bos", model.default_bos()},
          {"revision", model.revision()},
          {"weights_sha256", model.weights_sha256()},
          {"tokenizer_sha256", model.tokenizer_sha256()}};
}

absl::Status RunModels(const client::Client& client, const Global& global) {
  auto models = client.ListAllModels();
  if (!models.ok()) return models.status();
  if (global.json) {
    auto list = nlohmann::ordered_json::array();
    for (const v1::ModelInfo& model : models->models()) list.push_back(ModelJson(model));
    auto others = nlohmann::ordered_json::array();
    for (const v1::UnloadedModel& model : models->others()) others.push_back(ModelJson(model));
    PrintJson({{"models", list},
               {"others", others},
               {"weights_bytes", models->weights_bytes()},
               {"weights_budget_bytes", models->weights_budget_bytes()}});
    return absl::OkStatus();
  }
  constexpr Align kRight = Align::kRight;
  Table table({{"MODEL"},
               {"STATE"},
               {"FAMILY"},
               {"LAYERS", kRight},
               {"D_MODEL", kRight},
               {"HEADS", kRight},
               {"KV_HEADS", kRight},
               {"VOCABULARY", kRight},
               {"CONTEXT", kRight},
               {"PARAMETERS", kRight},
               {"WEIGHTS", kRight},
               {"DTYPE"},
               {"DEVICE"}});
  for (const v1::ModelInfo& m : models->models()) {
    table.Add({m.name(), "loaded", m.family(), std::to_string(m.layers()), std::to_string(m.d_model()), std::to_string(m.heads()),
               std::to_string(m.kv_heads()), std::to_string(m.vocabulary()), std::to_string(m.context()), Count(m.parameters()),
               Bytes(m.weight_bytes()), m.dtype(), m.device()});
  }
  for (const v1::UnloadedModel& m : models->others()) {
    const bool loading = m.state() == v1::UnloadedModel::STATE_LOADING && m.total_bytes() > 0;
    const std::string state =
        loading ? fmt::format("loading {}%", 100 * m.loaded_bytes() / m.total_bytes()) : std::string(StateName(m.state()));
    table.Add({m.name(), state, "", "", "", "", "", "", "", "", "", "", ""});
  }
  fmt::print("{}", table.ToString(WantsColour(stdout)));
  return absl::OkStatus();
}

}  // namespace

void AddModels(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("models", "The models that the server holds, and those that it could load");
  command->callback([&global, action] { *action = [&global](const client::Client& client) { return RunModels(client, global); }; });
}

}  // namespace fluoroscope::cli
