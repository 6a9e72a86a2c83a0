// The `fluoroscope` command line: looks into the models of a running server.
#include <fmt/core.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2, kNoServer = 3 };

constexpr double kTimeout = 60;

constexpr char kFooter[] = R"(
Examples:
  fluoroscope models
  fluoroscope hooks smollm2-135m
  fluoroscope run smollm2-135m "The capital of France is" --top 5
  fluoroscope generate smollm2-135m "Once upon a time" --max-new-tokens 40
  fluoroscope sweep smollm2-135m --clean "…" --corrupt "…" --answer " Mary" --foil " John"
  fluoroscope path-patch smollm2-135m --clean "…" --corrupt "…" --answer " Mary" --foil " John"
  fluoroscope lens smollm2-135m "The capital of France is"
  echo -n "Once upon a time" | fluoroscope run smollm2-135m - --json

`fluoroscope COMMAND --help` explains a command. Exit codes: 0 done, 1 the server refused or failed, 2 wrong usage, 3 no server answers.)";

int Report(const absl::Status& status, const Global& global, double timeout_s) {
  if (status.ok()) return kOk;
  const bool colour = WantsColour(stderr);
  const std::string message(status.message());
  const std::string code = absl::StatusCodeToString(status.code());
  fmt::print(stderr, "{} {} ({})\n", Bold("fluoroscope:", colour), message.empty() ? "the call failed" : message, code);
  if (status.code() == absl::StatusCode::kUnavailable) {
    fmt::print(stderr,
               "Start a server with\n  fluoroscope-server --model NAME=DIRECTORY        (or --config FILE)\n"
               "or say where one is: --target HOST:PORT, or FLUOROSCOPE_TARGET in the environment (now {}).\n",
               global.target);
    return kNoServer;
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded)
    fmt::print(stderr, "--timeout SECONDS gives it more time (now {:g}; 0: no limit).\n", timeout_s);
  return kFailed;
}

// Whoever misspells a command is told which there are; CLI11 says only that the word was not expected.
bool ReportUnknownCommand(const CLI::App& app) {
  const std::vector<std::string> rest = app.remaining();
  if (!app.get_subcommands().empty() || rest.empty() || rest.front().starts_with("-")) return false;
  std::string commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    absl::StrAppend(&commands, commands.empty() ? "" : ", ", command->get_name());
  fmt::print(stderr, "fluoroscope: there is no command '{}'; there are {}\nRun with --help for more information.\n", rest.front(),
             commands);
  return true;
}

int Main(int argc, char** argv) {
  Global global;
  Action action;
  CLI::App app("Looks inside the language models of a Fluoroscope server.", "fluoroscope");
  app.set_version_flag("--version", "fluoroscope " FLUOROSCOPE_VERSION);
  app.require_subcommand(0, 1);
  app.fallthrough();  // the options below may also stand behind the command
  app.add_option("--target", global.target, "The server's gRPC address ($FLUOROSCOPE_TARGET, else localhost:7070)")
      ->envname("FLUOROSCOPE_TARGET")
      ->option_text("HOST:PORT");
  app.add_option("--timeout", global.timeout_s, "How long one call may take (60, and no limit for load); 0: no limit")
      ->check(CLI::Range(0.0, 1e6).description(""))
      ->option_text("SECONDS");
  app.add_flag("--batch", global.batch, "Let other callers' interactive calls go first");
  app.add_option("--principal", global.principal, "Your name for yourself, to which your jobs belong ($FLUOROSCOPE_PRINCIPAL)")
      ->envname("FLUOROSCOPE_PRINCIPAL")
      ->option_text("NAME");
  app.add_flag("--json", global.json, "One JSON document instead of a table");
  AddModels(app, global, &action);
  AddLoading(app, global, &action);
  AddHooks(app, global, &action);
  AddRun(app, global, &action);
  AddGenerate(app, global, &action);
  AddSweep(app, global, &action);
  AddPathPatch(app, global, &action);
  AddLens(app, global, &action);
  AddTop(app, global, &action);
  AddJobs(app, global, &action);
  app.footer(kFooter);  // behind the commands, which would copy it
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError) && ReportUnknownCommand(app)) return kUsage;
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  if (!action) {
    fmt::print(stderr, "{}", app.help());
    return kUsage;
  }
  client::Options options;
  options.principal = global.principal;
  // How long a model loads depends on its size, and a deadline that passes ends the load.
  const double timeout_s = global.timeout_s.value_or(app.got_subcommand("load") ? 0 : kTimeout);
  options.call_timeout = std::chrono::milliseconds(static_cast<int64_t>(std::ceil(timeout_s * 1000)));
  options.batch = global.batch;
  auto client = client::Client::Connect(global.target, options);
  absl::Status status = client.ok() ? action(*client) : client.status();
  // A full disk or a reader that went away shows only now.
  if (status.ok() && std::fflush(stdout) != 0)
    status = absl::DataLossError(absl::StrCat("cannot write the output: ", std::strerror(errno)));
  return Report(status, global, timeout_s);
}

}  // namespace
}  // namespace fluoroscope::cli

int main(int argc, char** argv) {
  try {
    return fluoroscope::cli::Main(argc, argv);
  } catch (const std::exception& error) {  // no memory, or output larger than a buffer that cannot be written
    std::fprintf(stderr, "fluoroscope: %s\n", error.what());
    return 1;
  }
}
