// What the subcommands share. Each is a file with two functions: declare the options, run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"

namespace fluoroscope::cli {

struct Global {
  std::string target = "localhost:7070";
  std::optional<double> timeout_s;  // as given
  bool json = false;
  bool batch = false;
  std::string principal;  // whose jobs; empty: a random name
};

// What to do once everything is parsed.
using Action = std::function<absl::Status(const client::Client&)>;

// Each adds its subcommand to `app`; when it is the one chosen, `*action` is set. `global` outlives the action.
void AddModels(CLI::App& app, const Global& global, Action* action);
void AddLoading(CLI::App& app, const Global& global, Action* action);  // load, unload
void AddHooks(CLI::App& app, const Global& global, Action* action);
void AddRun(CLI::App& app, const Global& global, Action* action);
void AddGenerate(CLI::App& app, const Global& global, Action* action);
void AddSweep(CLI::App& app, const Global& global, Action* action);
void AddPathPatch(CLI::App& app, const Global& global, Action* action);
void AddLens(CLI::App& app, const Global& global, Action* action);
void AddTop(CLI::App& app, const Global& global, Action* action);
void AddJobs(CLI::App& app, const Global& global, Action* action);

// Submits a job for the commands whose requests may be one, and prints its id. INVALID_ARGUMENT without a principal: nobody would find it.
absl::Status SubmitJob(const client::Client& client, const Global& global, const v1::SubmitJobRequest& request);

}  // namespace fluoroscope::cli
