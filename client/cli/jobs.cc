// fluoroscope jobs [list | watch ID | cancel ID | delete ID]
#include <fmt/chrono.h>
#include <fmt/core.h>

#include <ctime>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sweep_output.h"

namespace fluoroscope::cli {
namespace {

constexpr char kJobsExamples[] = R"(
Jobs belong to the principal that submitted them: give the same --principal NAME, or set FLUOROSCOPE_PRINCIPAL, everywhere. It is no password.

Examples:
  export FLUOROSCOPE_PRINCIPAL=me
  fluoroscope sweep smollm2-135m … --as-job     submits a job and prints its id; so does path-patch
  fluoroscope jobs                              lists yours, newest first
  fluoroscope jobs watch ID                     waits for the end and shows the heat map
  fluoroscope jobs watch ID --csv > sweep.csv)";

const char* StateName(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_QUEUED:
      return "queued";
    case v1::JOB_STATE_RUNNING:
      return "running";
    case v1::JOB_STATE_DONE:
      return "done";
    case v1::JOB_STATE_FAILED:
      return "failed";
    case v1::JOB_STATE_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

std::string Time(int64_t milliseconds) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::gmtime(static_cast<std::time_t>(milliseconds / 1000)));
}

nlohmann::ordered_json JobJson(const v1::Job& job) {
  return {{"id", job.id()},
          {"kind", job.kind()},
          {"model", job.model()},
          {"state", StateName(job.state())},
          {"cells_done", job.cells_done()},
          {"cells_total", job.cells_total()},
          {"code", job.code() == 0 ? "" : absl::StatusCodeToString(static_cast<absl::StatusCode>(job.code()))},
          {"message", job.message()},
          {"created_ms", job.created_ms()},
          {"changed_ms", job.changed_ms()},
          {"weights_sha256", job.weights_sha256()},
          {"plan_sha256", job.plan_sha256()}};
}

absl::Status CheckPrincipal(const Global& global) {
  if (!global.principal.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "jobs belong to a principal: say who you are with --principal NAME, or FLUOROSCOPE_PRINCIPAL in the environment");
}

absl::Status List(const client::Client& client, const Global& global) {
  if (absl::Status status = CheckPrincipal(global); !status.ok()) return status;
  const auto jobs = client.ListJobs();
  if (!jobs.ok()) return jobs.status();
  if (global.json) {
    auto list = nlohmann::ordered_json::array();
    for (const v1::Job& job : *jobs) list.push_back(JobJson(job));
    PrintJson({{"jobs", list}});
    return absl::OkStatus();
  }
  Table table({{"ID"}, {"KIND"}, {"MODEL"}, {"STATE"}, {"CELLS", Align::kRight}, {"OF", Align::kRight}, {"CREATED (UTC)"}, {"WHY"}});
  for (const v1::Job& job : *jobs)
    table.Add({job.id(), job.kind(), job.model(), StateName(job.state()), std::to_string(job.cells_done()),
               std::to_string(job.cells_total()), Time(job.created_ms()), job.message()});
  fmt::print("{}", table.ToString(WantsColour(stdout)));
  return absl::OkStatus();
}

struct JobOptions {
  std::string id;
  bool csv = false, raw = false;
};

absl::Status Watch(const client::Client& client, const Global& global, const JobOptions& options) {
  if (absl::Status status = CheckPrincipal(global); !status.ok()) return status;
  if (global.json && options.csv) return absl::InvalidArgumentError("--json and --csv exclude each other");
  const auto job = client.GetJob(options.id);
  if (!job.ok()) return job.status();
  auto result = [&] {
    Progress progress;
    return client.WatchJob(options.id, [&](size_t done, size_t total) { progress.Show(done, total); });
  }();
  if (!result.ok()) return result.status();
  const GridText text = job->request().has_sweep() ? TextOf(job->request().sweep()) : TextOf(job->request().path_patch());
  PrintGrid(text, *result, {global.json, options.csv, options.raw});
  return absl::OkStatus();
}

absl::Status Cancel(const client::Client& client, const Global& global, const JobOptions& options) {
  if (absl::Status status = CheckPrincipal(global); !status.ok()) return status;
  const auto job = client.CancelJob(options.id);
  if (!job.ok()) return job.status();
  if (global.json) {
    PrintJson(JobJson(*job));
  } else {
    fmt::print("{} of {} {} done\n", job->cells_done(), Counted(job->cells_total(), "cell"), job->cells_done() == 1 ? "was" : "were");
  }
  return absl::OkStatus();
}

absl::Status Delete(const client::Client& client, const Global& global, const JobOptions& options) {
  if (absl::Status status = CheckPrincipal(global); !status.ok()) return status;
  return client.DeleteJob(options.id);
}

}  // namespace

absl::Status SubmitJob(const client::Client& client, const Global& global, const v1::SubmitJobRequest& request) {
  if (absl::Status status = CheckPrincipal(global); !status.ok()) return status;
  const auto job = client.SubmitJob(request);
  if (!job.ok()) return job.status();
  if (global.json) {
    PrintJson(JobJson(*job));
  } else {
    fmt::print("{}\n", job->id());
  }
  return absl::OkStatus();
}

void AddJobs(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command =
      app.add_subcommand("jobs", "Sweeps and path patching that the server keeps: lists, watches, cancels and deletes them");
  command->require_subcommand(0, 1);
  auto options = std::make_shared<JobOptions>();
  using Run = absl::Status (*)(const client::Client&, const Global&, const JobOptions&);
  const auto add = [&](const char* name, const char* help, Run run) {
    CLI::App* one = command->add_subcommand(name, help);
    one->add_option("ID", options->id, "The job's id")->required();
    one->callback([&global, action, options, run] {
      *action = [&global, options, run](const client::Client& client) { return run(client, global, *options); };
    });
    return one;
  };
  CLI::App* watch = add("watch", "Waits for the end of a job and shows its result; any number may watch, at any time", Watch);
  watch->add_flag("--raw", options->raw, "The heat map shows the metric itself, also where it can be normalised");
  watch->add_flag("--csv", options->csv, "One line per cell: labels, value, normalised value");
  add("cancel", "Stops a job for good; what is finished is kept until it is deleted", Cancel);
  add("delete", "Stops a job if it has not ended, and has the server forget it", Delete);
  command->add_subcommand("list", "All your jobs, newest first (also without a command)");
  command->footer(kJobsExamples);
  // After its own subcommands' callbacks, so only when none of those has set the action.
  command->callback([&global, action] {
    if (!*action) *action = [&global](const client::Client& client) { return List(client, global); };
  });
}

}  // namespace fluoroscope::cli
