// fluoroscope sweep MODEL --clean TEXT --corrupt TEXT --answer TOKEN --foil TOKEN
#include <memory>

#include "client/cli/command.h"
#include "client/cli/grid_command.h"
#include "client/cli/sweep_request.h"
#include "client/cli/token_hints.h"

namespace fluoroscope::cli {
namespace {

constexpr char kSweepExamples[] = R"(
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

struct SweepCommand {
  SweepOptions sweep;
  GridOptions grid;
};

absl::Status RunSweep(const client::Client& client, const Global& global, const SweepCommand& options) {
  absl::Status status = CheckGridOptions(global, options.grid);
  if (!status.ok()) return status;
  auto request = MakeSweepRequest(options.sweep);
  if (!request.ok()) return request.status();
  status = AlignPair(client, options.sweep.pair, request->direction() == v1::SWEEP_DIRECTION_NOISE, request->mutable_pairs(0));
  if (!status.ok()) return status;
  WarnOfMissingSpaces(client, options.sweep.pair);
  return RunGrid(client, global, options.grid, *request);
}

}  // namespace

void AddSweep(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("sweep", "Patches a whole grid of places and shows what each one does, as a heat map");
  auto options = std::make_shared<SweepCommand>();
  AddSweepOptions(*command, &options->sweep);
  AddGridOptions(*command, &options->grid);
  command->footer(kSweepExamples);
  command->callback([&global, action, options] {
    RequireSweepPrompts(options->sweep);
    *action = [&global, options](const client::Client& client) { return RunSweep(client, global, *options); };
  });
}

}  // namespace fluoroscope::cli
