// fluoroscope path-patch MODEL --clean TEXT --corrupt TEXT --answer TOKEN --foil TOKEN
#include <memory>

#include "client/cli/command.h"
#include "client/cli/grid_command.h"
#include "client/cli/path_request.h"
#include "client/cli/token_hints.h"

namespace fluoroscope::cli {
namespace {

constexpr char kPathExamples[] = R"(
Path patching (Wang et al. 2022): the prompt runs with a sender's output as in the other prompt, all other heads frozen; what the receiver
then reads is put into a run in which everything behind it is computed again. The metric of that run is the cell's value. Nothing is
linearised.

Examples:
  fluoroscope path-patch smollm2-135m --answer " Mary" --foil " John" \
    --clean   "When John and Mary went to the shops, John gave the bag to" \
    --corrupt "When John and Mary went to the shops, Mary gave the bag to"
                                                         what each head says to the logits directly
  … --senders heads,mlps,embed --mlps freeze             every part, and only the direct path
  … --receivers q.23.3,k.23.1 --receiver-positions=-1    what it says to one head's queries and keys
  … --senders movers=23.3+29.1,mlp.3                     heads that act together
  … --csv > paths.csv                                    one line per cell; heads are called L23H3)";

struct PathPatchCommand {
  PathOptions paths;
  GridOptions grid;
};

absl::Status RunPathPatch(const client::Client& client, const Global& global, const PathPatchCommand& options) {
  absl::Status status = CheckGridOptions(global, options.grid);
  if (!status.ok()) return status;
  const auto model = client.GetModel(options.paths.pair.model);
  if (!model.ok()) return model.status();
  auto request = MakePathRequest(options.paths, model->info());
  if (!request.ok()) return request.status();
  status = AlignPair(client, options.paths.pair, request->direction() == v1::SWEEP_DIRECTION_NOISE, request->mutable_pairs(0));
  if (!status.ok()) return status;
  WarnOfMissingSpaces(client, options.paths.pair);
  return RunGrid(client, global, options.grid, *request);
}

}  // namespace

void AddPathPatch(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("path-patch", "What one part of the model says to another, and to nobody else, as a heat map");
  auto options = std::make_shared<PathPatchCommand>();
  AddPathOptions(*command, &options->paths);
  AddGridOptions(*command, &options->grid);
  command->footer(kPathExamples);
  command->callback([&global, action, options] {
    *action = [&global, options](const client::Client& client) { return RunPathPatch(client, global, *options); };
  });
}

}  // namespace fluoroscope::cli
