#include "client/cli/sweep_request.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "client/cli/list_option.h"
#include "client/cli/notation.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

using Names = std::map<std::string, int>;

const Names& Axes() {
  static const Names axes = {{"site", v1::SWEEP_AXIS_SITE},
                             {"layer", v1::SWEEP_AXIS_LAYER},
                             {"position", v1::SWEEP_AXIS_POSITION},
                             {"head", v1::SWEEP_AXIS_HEAD},
                             {"unit", v1::SWEEP_AXIS_UNIT},
                             {"source", v1::SWEEP_AXIS_UNIT},  // of pattern and attn_scores
                             {"second_layer", v1::SWEEP_AXIS_SECOND_LAYER},
                             {"second_head", v1::SWEEP_AXIS_SECOND_HEAD}};
  return axes;
}
const Names& Kinds() {
  static const Names kinds = {
      {"patch", v1::SWEEP_KIND_PATCH}, {"zero", v1::SWEEP_KIND_ZERO}, {"mean", v1::SWEEP_KIND_MEAN}, {"resample", v1::SWEEP_KIND_RESAMPLE}};
  return kinds;
}

absl::Status FillGroups(const SweepOptions& options, v1::SweepRequest* request) {
  for (const std::string& group : options.groups) {
    if (!IsUtf8(group)) return absl::InvalidArgumentError("--group: not UTF-8 text");
    const size_t equals = group.find('=');
    if (equals == std::string::npos || equals == 0)
      return absl::InvalidArgumentError(absl::StrCat("--group '", group, "' is not NAME=POSITIONS, such as subject=1,3"));
    v1::PositionGroup* made = request->add_groups();
    made->set_name(group.substr(0, equals));
    absl::Status status = FillPositions(group.substr(equals + 1), "--group", made->add_positions());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status FillPlaces(const SweepOptions& options, v1::SweepRequest* request) {
  absl::Status status = FillNumbers(options.layers, "--layers", request->mutable_layers());
  if (status.ok()) status = FillNumbers(options.heads, "--heads", request->mutable_heads());
  if (status.ok()) status = FillNumbers(options.second_layers, "--second-layers", request->mutable_second_layers());
  if (status.ok()) status = FillNumbers(options.second_heads, "--second-heads", request->mutable_second_heads());
  if (status.ok()) status = FillNumbers(options.units, "--units", request->mutable_units());
  if (status.ok() && !options.positions.empty()) status = FillPositions(options.positions, "--positions", request->mutable_positions());
  if (status.ok()) status = FillGroups(options, request);
  request->set_window(options.window);
  request->set_unit_block(options.unit_block);
  request->set_seed(options.seed);
  return status;
}

CLI::Validator OneOf(const Names& names) {
  std::set<std::string> keys;
  for (const auto& [name, value] : names) keys.insert(name);
  return CLI::IsMember(keys).description("");
}

}  // namespace

void RequireSweepPrompts(const SweepOptions& options) {
  const bool noise = options.direction == "noise", handles = !options.source_handles.empty();
  // The prompt that values would come from may be left out where handles hold them.
  if (!options.pair.clean && (noise || !handles)) throw CLI::RequiredError("--clean");
  if (!options.pair.corrupt && (!noise || !handles)) throw CLI::RequiredError("--corrupt");
}

absl::StatusOr<v1::SweepRequest> MakeSweepRequest(const SweepOptions& options) {
  v1::SweepRequest request;
  request.set_model(options.pair.model);
  if (options.precision == "fast") request.set_precision(v1::SWEEP_PRECISION_FAST);
  v1::SweepPair* pair = request.add_pairs();
  absl::Status status = FillPair(options.pair, pair);
  for (const std::string& handle : options.source_handles) pair->add_source_handles(handle);
  for (const std::string& text : options.references)
    if (status.ok()) status = SetPrompt(text, "reference prompt", options.pair.how, request.add_references());
  request.set_direction(options.direction == "noise" ? v1::SWEEP_DIRECTION_NOISE : v1::SWEEP_DIRECTION_DENOISE);
  request.set_kind(static_cast<v1::SweepKind>(Kinds().at(options.kind)));
  for (const std::string& site : options.sites) request.add_sites(SiteName(site));
  if (options.sites.size() > 1 && std::find(options.over.begin(), options.over.end(), "site") == options.over.end())
    request.add_over(v1::SWEEP_AXIS_SITE);
  for (const std::string& axis : options.over) request.add_over(static_cast<v1::SweepAxis>(Axes().at(axis)));
  if (status.ok()) status = FillPlaces(options, &request);
  if (status.ok()) status = FillMetric(options.pair, request.add_metrics());
  if (!status.ok()) return status;
  return request;
}

void AddSweepOptions(CLI::App& command, SweepOptions* o) {
  auto numbers = [&](const char* name, std::string* to, const char* text) { AddListOption(command, name, to, text); };
  AddPairOptions(command, &o->pair);
  command
      .add_option(
          "--site", o->sites,
          "What is patched: resid_pre (the default), resid_mid, attn_out, mlp_out, z, q, k, v, pattern, …; or several, after commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NAME");
  command
      .add_option(
          "--over", o->over,
          "The grid's axes, after commas, outermost first: layer, position, head, unit, site; of pattern also source; of cells that change "
          "two places also second_layer, second_head (layer,position)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(OneOf(Axes()))
      ->option_text("AXES");
  command
      .add_option("--direction", o->direction,
                  "denoise: clean values into the corrupt run, what restores the answer? (default); noise: the other way round")
      ->check(CLI::IsMember({"denoise", "noise"}).description(""))
      ->option_text("WAY");
  command.add_option("--kind", o->kind, "patch (default), or an ablation: zero, mean, resample")
      ->check(OneOf(Kinds()))
      ->option_text("KIND");
  command
      .add_option("--precision", o->precision,
                  "model (default), or fast: matrix products in bfloat16; some cells are run again in float32 to say how far off it is")
      ->check(CLI::IsMember({"model", "fast"}).description(""))
      ->option_text("KIND");
  numbers("--layers", &o->layers, "Only these: 0,2,5-9; --layers=-1 is the last");
  numbers("--heads", &o->heads, "Only these");
  numbers("--second-layers", &o->second_layers, "Only these on the axis second_layer; default: as --layers");
  numbers("--second-heads", &o->second_heads, "Only these on the axis second_head; default: as --heads");
  numbers("--positions", &o->positions, "Only these; --positions=-1 is the last");
  command.add_option("--group", o->groups, "Positions that are patched together under a name: subject=1,3; may be repeated")
      ->allow_extra_args(false)
      ->option_text("NAME=LIST");
  numbers("--units", &o->units, "Only these entries of the site's last axis (neurons)");
  command.add_option("--unit-block", o->unit_block, "So many adjacent units are one place on the axis (1)")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->option_text("N");
  command.add_option("--window", o->window, "Patch so many adjacent layers together, from the cell's own on (1)")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->option_text("N");
  command
      .add_option(
          "--source-handle", o->source_handles,
          "Id of a handle (the Python package's model.keep or model.put) whose values are patched in; one for each hook point of the "
          "grid, after commas. The prompt that values would come from may then be left out. Handles belong to a --principal")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("ID");
  command.add_option("--reference", o->references, "Prompt that means and resampled values come from; may be repeated")
      ->allow_extra_args(false)
      ->option_text("TEXT");
  command.add_option("--seed", o->seed, "Of resample's draws (0)")->option_text("N");
  AddAlignOptions(command, &o->pair);
}

}  // namespace fluoroscope::cli
