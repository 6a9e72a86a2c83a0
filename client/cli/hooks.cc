// fluoroscope hooks MODEL
#include <fmt/core.h>

#include <memory>

#include "client/cli/command.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

std::vector<std::string> Axes(const v1::Site& site) { return {site.axes().begin(), site.axes().end()}; }
std::vector<int64_t> Sizes(const v1::Site& site) { return {site.shape().begin(), site.shape().end()}; }

nlohmann::ordered_json SiteJson(const v1::Site& site) {
  nlohmann::ordered_json json = {{"name", site.name()},
                                 {"equation", site.equation()},
                                 {"axes", Axes(site)},
                                 {"shape", Sizes(site)},
                                 {"readable", site.readable()},
                                 {"editable", site.editable()},
                                 {"has_gradient", site.has_gradient()},
                                 {"unavailable_because", nullptr}};
  if (!site.unavailable_because().empty()) json["unavailable_because"] = site.unavailable_because();
  return json;
}

std::string Uses(const v1::Site& site) {
  std::string uses;
  const auto add = [&](bool can, const char* what) {
    if (can) uses += (uses.empty() ? "" : ", ") + std::string(what);
  };
  add(site.readable(), "read");
  add(site.editable(), "edit");
  add(site.has_gradient(), "gradient");
  return uses;
}

void Print(const v1::GetModelReply& model) {
  const bool colour = WantsColour(stdout);
  Table table({{"HOOK POINT"}, {"SHAPE"}, {"USE"}, {"WHAT IT EQUALS"}});
  Table missing({{"NOT IN THIS MODEL"}, {"BECAUSE"}});
  bool any_missing = false;
  for (const v1::Site& site : model.sites()) {
    if (site.unavailable_because().empty()) {
      table.Add({site.name(), Shape(Axes(site), Sizes(site)), Uses(site), site.equation()});
    } else {
      missing.Add({site.name(), site.unavailable_because()});
      any_missing = true;
    }
  }
  fmt::print("{}", table.ToString(colour));
  if (any_missing) fmt::print("\n{}", missing.ToString(colour));
  if (model.info().layers() > 0) {
    fmt::print(
        "\n{}\n",
        Dim(fmt::format("{{l}} is a layer, 0 to {}. Names may be globs: blocks.*.hook_resid_pre", model.info().layers() - 1), colour));
  }
}

absl::Status RunHooks(const client::Client& client, const Global& global, const std::string& name) {
  auto model = client.GetModel(name);
  if (!model.ok()) return model.status();
  if (global.json) {
    auto sites = nlohmann::ordered_json::array();
    for (const v1::Site& site : model->sites()) sites.push_back(SiteJson(site));
    PrintJson({{"model", model->info().name()}, {"layers", model->info().layers()}, {"sites", sites}});
  } else {
    Print(*model);
  }
  return absl::OkStatus();
}

}  // namespace

void AddHooks(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("hooks", "A model's hook points: name, shape, what may be done there, the equation it equals");
  auto model = std::make_shared<std::string>();
  command->add_option("MODEL", *model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command->callback(
      [&global, action, model] { *action = [&global, model](const client::Client& client) { return RunHooks(client, global, *model); }; });
}

}  // namespace fluoroscope::cli
