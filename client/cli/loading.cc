// fluoroscope load, fluoroscope unload
#include <fmt/core.h>

#include <memory>

#include "client/cli/command.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

struct LoadingOptions {
  std::string model, dtype;
};

absl::Status Load(const client::Client& client, const Global& global, const LoadingOptions& options) {
  const auto loaded = client.LoadModel(options.model, options.dtype);
  if (!loaded.ok()) return loaded.status();
  const v1::ModelInfo& info = loaded->info();
  if (global.json) {
    PrintJson({{"model", info.name()},
               {"was_loaded", loaded->was_loaded()},
               {"dtype", info.dtype()},
               {"weight_bytes", info.weight_bytes()},
               {"weights_sha256", info.weights_sha256()}});
  } else {
    fmt::print("{} {} loaded: {}, {}\n", info.name(), loaded->was_loaded() ? "was" : "is", info.dtype(), Bytes(info.weight_bytes()));
  }
  return absl::OkStatus();
}

absl::Status Unload(const client::Client& client, const Global& global, const LoadingOptions& options) {
  const auto unloaded = client.UnloadModel(options.model);
  if (!unloaded.ok()) return unloaded.status();
  if (global.json) {
    PrintJson({{"model", options.model}, {"still_in_use", unloaded->still_in_use()}});
  } else {
    fmt::print("{} is unloaded{}\n", options.model, unloaded->still_in_use() ? "; requests that began before still hold its memory" : "");
  }
  return absl::OkStatus();
}

}  // namespace

void AddLoading(CLI::App& app, const Global& global, Action* action) {
  auto options = std::make_shared<LoadingOptions>();
  using Run = absl::Status (*)(const client::Client&, const Global&, const LoadingOptions&);
  const auto add = [&](const char* name, const char* help, Run run) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("MODEL", options->model, "Its name; `fluoroscope models` shows which there are")->required();
    command->callback([&global, action, options, run] {
      *action = [&global, options, run](const client::Client& client) { return run(client, global, *options); };
    });
    return command;
  };
  add("load", "Has the server load a model, and waits until it can be used", Load)
      ->add_option("--dtype", options->dtype, "f32, bf16 or f16; default: the model's own")
      ->option_text("DTYPE");
  add("unload", "Takes a model away from the server; requests in flight go on to their end", Unload);
}

}  // namespace fluoroscope::cli
