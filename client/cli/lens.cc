// fluoroscope lens MODEL PROMPT
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/heat_map.h"
#include "client/cli/list_option.h"
#include "client/cli/notation.h"
#include "client/cli/output.h"
#include "client/cli/predictions.h"
#include "client/cli/prompt.h"
#include "client/cli/reply_json.h"

namespace fluoroscope::cli {
namespace {

constexpr char kLensExamples[] = R"(
The logit lens: what the model would say if it ended after each layer. The final norm, with the statistics of the residual itself, and the
unembedding are applied to the residual stream; probabilities are over the whole vocabulary.

Examples:
  fluoroscope lens smollm2-135m "The capital of France is"     the best token after each layer at each position
  … --positions=-1 --top 5                                     the five best ones at the last position
  … --token " Paris" --token " London"                         follow these instead of the best ones
  … --site mlp_out                                             what each MLP alone would say
  … --csv > lens.csv                                           one line per layer, position and token)";

struct LensOptions {
  std::string model, prompt, site = "resid_post", layers, positions;
  uint32_t top = 5;
  std::vector<std::string> tokens;
  bool csv = false;
  PromptOptions how;
};

// What was read out, [layer, position, token].
struct Lens {
  std::string site;
  std::vector<uint32_t> layers;
  std::vector<int32_t> positions;
  size_t tokens = 0;
  bool chosen = false;  // the tokens were given, and are not the best ones
  Predictions found;

  Predictions At(size_t layer, size_t position) const {
    const auto begin = found.begin() + static_cast<std::ptrdiff_t>((layer * positions.size() + position) * tokens);
    return {begin, begin + static_cast<std::ptrdiff_t>(tokens)};
  }
};

absl::StatusOr<v1::ForwardRequest> RequestOf(const LensOptions& options) {
  v1::ForwardRequest request;
  request.set_model(options.model);
  absl::Status status = SetPrompt(options.prompt, "prompt", options.how, request.add_prompts());
  v1::Capture& capture = *request.add_captures();
  capture.mutable_select()->add_sites("blocks.*." + SiteName(options.site));
  if (status.ok()) status = FillNumbers(options.layers, "--layers", capture.mutable_select()->mutable_layers());
  if (status.ok() && !options.positions.empty())
    status = FillPositions(options.positions, "--positions", capture.mutable_select()->mutable_positions());
  v1::Reduction::Lens& lens = *capture.mutable_reduction()->mutable_lens();
  if (options.tokens.empty()) lens.set_top_k(options.top);
  for (const std::string& token : options.tokens) {
    if (status.ok() && !IsUtf8(token)) status = absl::InvalidArgumentError("a --token is not UTF-8 text");
    lens.add_tokens()->set_text(token);
  }
  if (!status.ok()) return status;
  return request;
}

absl::StatusOr<Lens> Read(const client::Client& client, const LensOptions& options, const client::ForwardResult& result) {
  Lens lens;
  lens.site = SiteName(options.site);
  lens.chosen = !options.tokens.empty();
  std::vector<int64_t> ids;
  if (lens.chosen) {
    auto found = TokenIds(client, options.model, options.tokens);
    if (!found.ok()) return found.status();
    ids = *std::move(found);
  }
  std::vector<const client::Tensor*> layers;  // one tensor each
  for (const client::Tensor& tensor : result.tensors)
    if (tensor.part == "logits" && tensor.layer && tensor.shape.size() == 2) layers.push_back(&tensor);
  std::sort(layers.begin(), layers.end(), [](const auto* a, const auto* b) { return *a->layer < *b->layer; });
  for (const client::Tensor* logits : layers) {
    if (layers.front()->shape != logits->shape || layers.front()->positions != logits->positions)
      return absl::InternalError("the layers of the server's reply differ in shape");
    const client::Tensor* logprobs = result.Find(logits->name, 0, "logprobs");
    auto here =
        lens.chosen ? ReadPredictions(ids, logits, logprobs) : ReadPredictions(result.Find(logits->name, 0, "tokens"), logits, logprobs);
    if (!here.ok()) return here.status();
    lens.layers.push_back(*logits->layer);
    lens.found.insert(lens.found.end(), here->begin(), here->end());
  }
  if (layers.empty()) return absl::InternalError("the server's reply has no layers");
  lens.positions = layers.front()->positions;
  lens.tokens = static_cast<size_t>(layers.front()->shape[1]);
  if (lens.tokens == 0 || lens.found.size() != lens.layers.size() * lens.positions.size() * lens.tokens)
    return absl::InternalError("the server's reply does not say its positions");
  if (absl::Status status = AddTexts(client, options.model, lens.found); !status.ok()) return status;
  return lens;
}

std::string TokenAt(const v1::RowInfo& row, int32_t position) {
  return position >= 0 && position < row.tokens_size() ? row.tokens(position) : "";
}

// One map of layers by `columns`; cell (l, c) is the token `at(l, c)`, as its text if `texts`, coloured by its probability.
void PrintMap(const Lens& lens, const std::string& title, std::vector<std::string> columns, bool texts, const auto& at) {
  HeatMap map;
  map.row_title = "layer";
  map.column_title = title;
  map.columns = std::move(columns);
  for (size_t l = 0; l < lens.layers.size(); ++l) {
    map.rows.push_back(std::to_string(lens.layers[l]));
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const Prediction& p = at(l, c);
      map.values.push_back(std::exp(p.log_probability));
      if (texts) map.texts.push_back(ShownToken(p.token));
    }
  }
  TurnRows(map);
  const Palette palette = PaletteOf(stdout);
  fmt::print("{}", palette != Palette::kNone ? Draw(map, palette, WidthOf(stdout)) : DrawPlain(map));
}

void PrintMaps(const Lens& lens, const client::ForwardResult& result) {
  const bool colour = WantsColour(stdout);
  const v1::RowInfo& row = result.header.rows(0);
  std::vector<std::string> positions;
  for (const int32_t position : lens.positions) positions.push_back(fmt::format("{} {}", position, ShownToken(TokenAt(row, position))));
  const auto cell = [&](size_t layer, size_t position, size_t token) -> const Prediction& {
    return lens.found[(layer * lens.positions.size() + position) * lens.tokens + token];
  };
  fmt::print("{}\n", Bold(fmt::format("logit lens of {}", lens.site), colour));
  if (lens.chosen) {
    fmt::print("The probability of the token after each layer.\n");
    for (size_t t = 0; t < lens.tokens; ++t) {
      fmt::print("\n{}\n", Bold(Quoted(cell(0, 0, t).token), colour));
      PrintMap(lens, "position", positions, false, [&](size_t l, size_t c) -> const Prediction& { return cell(l, c, t); });
    }
  } else if (lens.positions.size() == 1 && lens.tokens > 1) {
    fmt::print("The {} best tokens after each layer at position {}, coloured by their probability.\n\n", lens.tokens, positions[0]);
    std::vector<std::string> ranks;
    for (size_t t = 0; t < lens.tokens; ++t) ranks.push_back(std::to_string(t + 1));
    PrintMap(lens, "rank", ranks, true, [&](size_t l, size_t c) -> const Prediction& { return cell(l, 0, c); });
  } else {
    fmt::print("The best token after each layer, coloured by its probability.\n\n");
    PrintMap(lens, "position", positions, true, [&](size_t l, size_t c) -> const Prediction& { return cell(l, c, 0); });
  }
  const v1::Provenance& provenance = result.header.provenance();
  fmt::print("\n{}\n", Dim(fmt::format("white is probability 0, the darkest blue 1; {} {} on {}, {:.1f} ms running", provenance.model(),
                                       provenance.dtype(), provenance.device(), result.summary.run_ms()),
                           colour));
}

void PrintAsJson(const LensOptions& options, const Lens& lens, const client::ForwardResult& result) {
  const v1::RowInfo& row = result.header.rows(0);
  auto layers = nlohmann::ordered_json::array();
  for (size_t l = 0; l < lens.layers.size(); ++l) {
    auto& line = layers.emplace_back(nlohmann::ordered_json::array());
    for (size_t p = 0; p < lens.positions.size(); ++p) line.push_back(ToJson(lens.At(l, p)));
  }
  PrintJson({{"prompt", options.prompt},
             {"tokens", TokensToJson(row)},
             {"bos_added", row.bos_added()},
             {"site", lens.site},
             {"layers", lens.layers},
             {"positions", lens.positions},
             {"predictions", layers},
             {"queue_ms", result.summary.queue_ms()},
             {"run_ms", result.summary.run_ms()},
             {"provenance", ToJson(result.header.provenance())}});
}

void PrintAsCsv(const Lens& lens, const v1::RowInfo& row) {
  fmt::print("layer,position,prompt_token,rank,token,id,logit,log_probability\n");
  for (size_t l = 0; l < lens.layers.size(); ++l) {
    for (size_t c = 0; c < lens.positions.size(); ++c) {
      size_t rank = 0;
      for (const Prediction& p : lens.At(l, c))
        fmt::print("{},{},{},{},{},{},{},{}\n", lens.layers[l], lens.positions[c], CsvField(TokenAt(row, lens.positions[c])), ++rank,
                   CsvField(p.token), p.id, p.logit, p.log_probability);
    }
  }
}

absl::Status RunLens(const client::Client& client, const Global& global, LensOptions options) {
  if (global.json && options.csv) return absl::InvalidArgumentError("--json and --csv exclude each other");
  ReadDash(&options.prompt);
  const auto request = RequestOf(options);
  if (!request.ok()) return request.status();
  const auto result = client.Forward(*request);
  if (!result.ok()) return result.status();
  if (result->header.rows_size() != 1) return absl::InternalError("the server's reply does not describe the one prompt that was sent");
  const auto lens = Read(client, options, *result);
  if (!lens.ok()) return lens.status();
  for (const std::string& warning : result->summary.warnings()) fmt::print(stderr, "warning: {}\n", warning);
  if (global.json) {
    PrintAsJson(options, *lens, *result);
  } else if (options.csv) {
    PrintAsCsv(*lens, result->header.rows(0));
  } else {
    PrintMaps(*lens, *result);
  }
  return absl::OkStatus();
}

}  // namespace

void AddLens(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("lens", "What the model would say after each layer (logit lens), as a table of tokens");
  auto options = std::make_shared<LensOptions>();
  command->add_option("MODEL", options->model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command->add_option("PROMPT", options->prompt, "The text to run, or - to read it from standard input")->required()->option_text(" ");
  command
      ->add_option("--site", options->site,
                   "What is read out: resid_post (the default), resid_pre, resid_mid, or anything with a residual vector, such as mlp_out")
      ->option_text("NAME");
  AddListOption(*command, "--layers", &options->layers, "Only these: 0,2,5-9; --layers=-1 is the last");
  AddListOption(*command, "--positions", &options->positions, "Only these; --positions=-1 is the last");
  command->add_option("--top", options->top, "How many of the best tokens; the table shows them all where it is of one position (5)")
      ->check(CLI::Range(1u, 1000000u).description(""))
      ->option_text("K");
  command->add_option("--token", options->tokens, "Follow this token instead of the best ones: \" Paris\"; may be repeated")
      ->allow_extra_args(false)
      ->option_text("TOKEN");
  command->add_flag("--csv", options->csv, "One line per layer, position and token");
  AddPromptOptions(*command, &options->how);
  command->footer(kLensExamples);
  command->callback([&global, action, options] {
    *action = [&global, options](const client::Client& client) { return RunLens(client, global, *options); };
  });
}

}  // namespace fluoroscope::cli
