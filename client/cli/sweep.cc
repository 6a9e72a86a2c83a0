// fluoroscope sweep MODEL --clean TEXT --corrupt TEXT --answer TOKEN --foil TOKEN
#include <fmt/core.h>

#include <memory>
#include <vector>

#include "client/cli/align.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sweep_output.h"
#include "client/cli/sweep_request.h"

namespace fluoroscope::cli {
namespace {

constexpr char kExamples[] = R"(
Each cell of the grid is one run with one place changed, and what the metric then says; what is not an axis is changed at all its places
together. The server computes of each cell only what differs.

Examples:
  fluoroscope sweep smollm2-135m --answer " Mary" --foil " John" \
    --clean   "When John and Mary went to the shops, John gave the bag to" \
    --corrupt "When John and Mary went to the shops, Mary gave the bag to"
  … --site z --over layer,head                  which heads carry it
  … --site z --over layer,head --positions=-1   the same at the last position alone
  … --site resid_pre,attn_out,mlp_out           three heat maps
  … --align                                     prompts of unequal length
  … --site pattern --over position,source --layers 12 --heads 3
  … --csv > sweep.csv                           one line per cell)";

struct Options {
  SweepOptions sweep;
  bool csv = false, raw = false, estimate = false, as_job = false;
};

// What the sweep would cost; nothing is run.
absl::Status Estimate(const client::Client& client, const Global& global, const v1::SweepRequest& request) {
  const auto cost = client.EstimateSweep(request);
  if (!cost.ok()) return cost.status();
  const double saved = cost->flops() > 0 ? cost->forwards_flops() / cost->flops() : 0;
  if (global.json) {
    PrintJson({{"cells", cost->cells()},
               {"filled_cells", cost->filled_cells()},
               {"flops", cost->flops()},
               {"forwards_flops", cost->forwards_flops()},
               {"peak_bytes", cost->peak_bytes()},
               {"budget_bytes", cost->budget_bytes()}});
    return absl::OkStatus();
  }
  fmt::print("{} cells, of which {} are the unpatched run and cost nothing\n", cost->cells(), cost->filled_cells());
  fmt::print("{:.1f} GFLOP, {:.1f} times less than a whole forward for each cell\n", cost->flops() / 1e9, saved);
  fmt::print("{} at the peak, of the server's {}\n", Bytes(cost->peak_bytes()), Bytes(cost->budget_bytes()));
  return absl::OkStatus();
}

// Where the tokens of the prompt that is run have theirs in the other one.
absl::Status AddAlignment(const client::Client& client, v1::SweepRequest& request) {
  v1::SweepPair* pair = request.mutable_pairs(0);
  const bool noise = request.direction() == v1::SWEEP_DIRECTION_NOISE;
  v1::TokenizeRequest tokenize;
  tokenize.set_model(request.model());
  *tokenize.add_prompts() = noise ? pair->corrupt() : pair->clean();
  *tokenize.add_prompts() = noise ? pair->clean() : pair->corrupt();
  const auto reply = client.Tokenize(tokenize);
  if (!reply.ok()) return reply.status();
  std::vector<int64_t> ids[2];
  for (int i = 0; i < 2 && i < reply->rows_size(); ++i) ids[i].assign(reply->rows(i).token_ids().begin(), reply->rows(i).token_ids().end());
  for (const int32_t position : AlignTokens(ids[0], ids[1])) pair->add_source_positions(position);
  return absl::OkStatus();
}

absl::Status Run(const client::Client& client, const Global& global, const Options& options) {
  if (global.json && options.csv) return absl::InvalidArgumentError("--json and --csv exclude each other");
  auto request = MakeSweepRequest(options.sweep);
  if (!request.ok()) return request.status();
  if (options.sweep.align) {
    absl::Status aligned = AddAlignment(client, *request);
    if (!aligned.ok()) return aligned;
  }
  if (options.estimate) {
    if (options.csv) return absl::InvalidArgumentError("--estimate and --csv exclude each other");
    return Estimate(client, global, *request);
  }
  if (options.as_job) {
    if (options.csv)
      return absl::InvalidArgumentError("--as-job and --csv exclude each other: `fluoroscope jobs watch ID --csv` gives the result");
    v1::SubmitJobRequest submit;
    *submit.mutable_sweep() = *std::move(request);
    return SubmitJob(client, global, submit);
  }
  auto sweep = [&] {
    Progress progress;
    return client.Sweep(*request, [&](size_t done, size_t total) { progress.Show(done, total); });
  };
  auto result = sweep();
  if (!result.ok()) return result.status();
  PrintGrid(TextOf(*request), *result, {global.json, options.csv, options.raw});
  return absl::OkStatus();
}

}  // namespace

void AddSweep(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("sweep", "Patches a whole grid of places and shows what each one does, as a heat map");
  auto options = std::make_shared<Options>();
  AddSweepOptions(*command, &options->sweep);
  command->add_flag("--raw", options->raw, "The heat map shows the metric itself, also where it can be normalised");
  command->add_flag("--csv", options->csv, "One line per cell: labels, value, normalised value");
  command->add_flag("--estimate", options->estimate, "Says what the sweep would cost, without running it");
  command->add_flag("--as-job", options->as_job, "Has the server keep the sweep as a job and prints its id; see `fluoroscope jobs`");
  command->footer(kExamples);
  command->callback(
      [&global, action, options] { *action = [&global, options](const client::Client& client) { return Run(client, global, *options); }; });
}

}  // namespace fluoroscope::cli
