#include "client/cli/sweep_request.h"

#include <charconv>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"

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

// A typo in a range must not fill the memory.
constexpr int64_t kMaxNumbers = 1 << 20;

const char* Number(const char* at, const char* end, int32_t* value) {
  const auto [next, error] = std::from_chars(at, end, *value);
  return error == std::errc() ? next : nullptr;
}

absl::Status Fill(const std::string& text, const char* option, auto* field) {
  if (text.empty()) return absl::OkStatus();
  auto numbers = ParseNumbers(text);
  if (!numbers.ok()) return absl::InvalidArgumentError(absl::StrCat(option, ": ", numbers.status().message()));
  for (int32_t number : *numbers) {
    if (std::is_unsigned_v<std::decay_t<decltype(field->Get(0))>> && number < 0)
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", number, " is negative; these count from 0"));
    field->Add(number);
  }
  return absl::OkStatus();
}

absl::Status FillPositions(const std::string& text, const char* option, v1::Positions* positions) {
  auto numbers = ParseNumbers(text);
  if (!numbers.ok()) return absl::InvalidArgumentError(absl::StrCat(option, ": ", numbers.status().message()));
  for (int32_t number : *numbers) positions->add_items()->set_index(number);
  return absl::OkStatus();
}

void FillTokens(const std::vector<std::string>& from, auto* to) {
  for (const std::string& token : from) to->Add()->set_text(token);
}

absl::Status FillMetric(const SweepOptions& options, v1::Metric* metric) {
  const std::string kind = !options.metric.empty() ? options.metric : options.foils.empty() ? "logits" : "logit_diff";
  metric->set_name(kind);
  if (kind == "logit_diff") {
    if (options.foils.empty()) return absl::InvalidArgumentError("--metric logit_diff needs a --foil to compare the answer with");
    FillTokens(options.answers, metric->mutable_logit_difference()->mutable_right());
    FillTokens(options.foils, metric->mutable_logit_difference()->mutable_wrong());
    return absl::OkStatus();
  }
  if (!options.foils.empty()) return absl::InvalidArgumentError(absl::StrCat("--foil belongs to logit_diff, not to --metric ", kind));
  if (kind == "logits") FillTokens(options.answers, metric->mutable_mean_logit()->mutable_tokens());
  if (kind == "prob") FillTokens(options.answers, metric->mutable_probability()->mutable_tokens());
  if (kind == "logprob") FillTokens(options.answers, metric->mutable_log_probability()->mutable_tokens());
  if (kind == "rank") {
    if (options.answers.size() != 1) return absl::InvalidArgumentError("--metric rank is of one --answer");
    metric->mutable_rank()->mutable_token()->set_text(options.answers.front());
  }
  return absl::OkStatus();
}

absl::Status FillGroups(const SweepOptions& options, v1::SweepRequest* request) {
  for (const std::string& group : options.groups) {
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

absl::Status FillNumbers(const SweepOptions& options, v1::SweepRequest* request) {
  absl::Status status = Fill(options.layers, "--layers", request->mutable_layers());
  if (status.ok()) status = Fill(options.heads, "--heads", request->mutable_heads());
  if (status.ok()) status = Fill(options.second_layers, "--second-layers", request->mutable_second_layers());
  if (status.ok()) status = Fill(options.second_heads, "--second-heads", request->mutable_second_heads());
  if (status.ok()) status = Fill(options.units, "--units", request->mutable_units());
  if (status.ok()) status = Fill(options.source_positions, "--source-positions", request->mutable_pairs(0)->mutable_source_positions());
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

absl::StatusOr<std::vector<int32_t>> ParseNumbers(const std::string& text) {
  std::vector<int32_t> numbers;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    int32_t first = 0, last = 0;
    at = Number(at, end, &first);
    last = first;
    if (at != nullptr && at != end && *at == '-') at = Number(at + 1, end, &last);
    if (at == nullptr || (at != end && *at != ',') || last < first)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a list of numbers and ranges such as 0,2,5-9,-1"));
    if (int64_t{last} - first + static_cast<int64_t>(numbers.size()) >= kMaxNumbers)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' has more than ", kMaxNumbers, " numbers"));
    for (int64_t number = first; number <= last; ++number) numbers.push_back(static_cast<int32_t>(number));
    if (at == end) return numbers;
    ++at;
  }
}

std::string SiteName(const std::string& name) {
  for (const char* prefix : {"blocks.*.", "blocks.{l}."})
    if (name.starts_with(prefix)) return name.substr(std::string(prefix).size());
  if (name.find("hook_") != std::string::npos) return name;
  static const std::set<std::string> attention = {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"};
  static const std::set<std::string> mlp = {"pre", "pre_linear", "post"};
  return (attention.contains(name) ? "attn." : mlp.contains(name) ? "mlp." : "") + ("hook_" + name);
}

absl::StatusOr<v1::SweepRequest> MakeSweepRequest(const SweepOptions& options) {
  v1::SweepRequest request;
  request.set_model(options.model);
  if (options.align && !options.source_positions.empty())
    return absl::InvalidArgumentError("--align and --source-positions exclude each other: the one finds what the other gives");
  if (options.precision == "fast") request.set_precision(v1::SWEEP_PRECISION_FAST);
  v1::SweepPair* pair = request.add_pairs();
  absl::Status status = SetPrompt(options.clean, "clean prompt", options.how, pair->mutable_clean());
  if (status.ok()) status = SetPrompt(options.corrupt, "corrupt prompt", options.how, pair->mutable_corrupt());
  for (const std::string& text : options.references)
    if (status.ok()) status = SetPrompt(text, "reference prompt", options.how, request.add_references());
  request.set_direction(options.direction == "noise" ? v1::SWEEP_DIRECTION_NOISE : v1::SWEEP_DIRECTION_DENOISE);
  request.set_kind(static_cast<v1::SweepKind>(Kinds().at(options.kind)));
  for (const std::string& site : options.sites) request.add_sites(SiteName(site));
  if (options.sites.size() > 1 && std::find(options.over.begin(), options.over.end(), "site") == options.over.end())
    request.add_over(v1::SWEEP_AXIS_SITE);
  for (const std::string& axis : options.over) request.add_over(static_cast<v1::SweepAxis>(Axes().at(axis)));
  if (status.ok()) status = FillNumbers(options, &request);
  if (status.ok()) status = FillMetric(options, request.add_metrics());
  if (!status.ok()) return status;
  return request;
}

void AddSweepOptions(CLI::App& command, SweepOptions* o) {
  auto numbers = [&](const char* name, std::string* to, const char* text) { command.add_option(name, *to, text)->option_text("LIST"); };
  command.add_option("MODEL", o->model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command.add_option("--clean", o->clean, "The prompt with the right answer")->required()->option_text("TEXT");
  command.add_option("--corrupt", o->corrupt, "The prompt that lacks what matters; as many tokens, or see --align")
      ->required()
      ->option_text("TEXT");
  command.add_option("--answer", o->answers, "Token that the metric is about, as it is after the prompt: \" Mary\"; may be repeated")
      ->required()
      ->allow_extra_args(false)
      ->option_text("TOKEN");
  command.add_option("--foil", o->foils, "Token to compare it with; may be repeated")->allow_extra_args(false)->option_text("TOKEN");
  command
      .add_option("--metric", o->metric,
                  "logit_diff (answer minus foil; the default with --foil), logits (the default without), prob, logprob or rank")
      ->check(CLI::IsMember({"logit_diff", "logits", "prob", "logprob", "rank"}).description(""))
      ->option_text("KIND");
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
  numbers("--source-positions", &o->source_positions,
          "For prompts of unequal length: for each position of the prompt that is run, the other's position whose value goes there, -1 for "
          "none");
  command.add_flag(
      "--align", o->align,
      "For prompts of unequal length: finds --source-positions. Equal stretches of tokens belong together, and so do stretches "
      "of equal length between them");
  command.add_option("--reference", o->references, "Prompt that means and resampled values come from; may be repeated")
      ->allow_extra_args(false)
      ->option_text("TEXT");
  command.add_option("--seed", o->seed, "Of resample's draws (0)")->option_text("N");
  AddPromptOptions(command, &o->how);
}

}  // namespace fluoroscope::cli
