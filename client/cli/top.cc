// fluoroscope top
#include <fmt/core.h>

#include <chrono>
#include <map>
#include <memory>
#include <thread>

#include "client/cli/command.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

struct TopOptions {
  double interval_s = 2;
  bool once = false;
};

std::string PriorityName(const v1::WorkStatus& work) { return work.priority() == v1::WorkStatus::PRIORITY_BATCH ? "batch" : "interactive"; }
std::string StateName(const v1::WorkStatus& work) { return work.state() == v1::WorkStatus::STATE_RUNNING ? "running" : "waiting"; }

nlohmann::ordered_json ToJson(const v1::ServerStatus& status) {
  auto works = nlohmann::ordered_json::array();
  for (const v1::WorkStatus& work : status.works()) {
    works.push_back({{"principal", work.principal()},
                     {"state", StateName(work)},
                     {"priority", PriorityName(work)},
                     {"age_seconds", work.age_seconds()},
                     {"peak_bytes", work.peak_bytes()},
                     {"flops", work.flops()}});
  }
  return {{"admitted_bytes", status.admitted_bytes()},       {"budget_bytes", status.budget_bytes()},
          {"uptime_seconds", status.uptime_seconds()},       {"busy_seconds", status.busy_seconds()},
          {"finished_requests", status.finished_requests()}, {"works", works}};
}

// Rates are those since `before`, an earlier reply of the same server.
std::string Summary(const v1::ServerStatus& status, const v1::ServerStatus& before) {
  int running = 0, waiting = 0;
  std::map<std::string, int> principals;
  for (const v1::WorkStatus& work : status.works()) {
    ++(work.state() == v1::WorkStatus::STATE_RUNNING ? running : waiting);
    ++principals[work.principal()];
  }
  std::string text = fmt::format("{} running, {} waiting, of {} callers; {} of {} admitted\n", running, waiting, principals.size(),
                                 Bytes(status.admitted_bytes()), Bytes(status.budget_bytes()));
  const double seconds = status.uptime_seconds() - before.uptime_seconds();
  if (seconds > 0 && status.finished_requests() >= before.finished_requests()) {
    text += fmt::format("{:.1f} requests a second, device {:.0f} % busy, over {:.1f} s\n",
                        static_cast<double>(status.finished_requests() - before.finished_requests()) / seconds,
                        100 * (status.busy_seconds() - before.busy_seconds()) / seconds, seconds);
  }
  return text;
}

absl::Status Run(const client::Client& client, const Global& global, const TopOptions& options) {
  v1::ServerStatus before;  // all zeros: the first rates are those since the server's start
  for (;;) {
    auto status = client.GetStatus();
    if (!status.ok()) return status.status();
    if (global.json) {
      PrintJson(ToJson(*status));
      return absl::OkStatus();
    }
    Table table({{"CALLER"}, {"STATE"}, {"PRIORITY"}, {"AGE", Align::kRight}, {"MEMORY", Align::kRight}, {"GFLOP", Align::kRight}});
    for (const v1::WorkStatus& work : status->works()) {
      table.Add({work.principal(), StateName(work), PriorityName(work), fmt::format("{:.1f} s", work.age_seconds()),
                 Bytes(work.peak_bytes()), fmt::format("{:.1f}", work.flops() / 1e9)});
    }
    const bool colour = WantsColour(stdout);
    fmt::print("{}{}{}", colour && !options.once ? "\033[H\033[2J" : "", Summary(*status, before), table.ToString(colour));
    std::fflush(stdout);
    if (options.once) return absl::OkStatus();
    before = *std::move(status);
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval_s));
  }
}

}  // namespace

void AddTop(CLI::App& app, const Global& global, Action* action) {
  auto options = std::make_shared<TopOptions>();
  CLI::App* command = app.add_subcommand("top", "What the server is doing: its queue, whose requests run, how fast they end");
  command->add_option("--interval", options->interval_s, "Seconds between two looks (2)")
      ->check(CLI::Range(0.1, 3600.0).description(""))
      ->option_text("SECONDS");
  command->add_flag("--once", options->once, "Look once; rates are then those since the server's start");
  command->callback(
      [&global, action, options] { *action = [&global, options](const client::Client& client) { return Run(client, global, *options); }; });
}

}  // namespace fluoroscope::cli
