// fluoroscope run MODEL PROMPT
#include <fmt/core.h>

#include <cmath>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/predictions.h"
#include "client/cli/prompt.h"
#include "client/cli/reply_json.h"

namespace fluoroscope::cli {
namespace {

struct RunOptions {
  std::string model, prompt;
  uint32_t top = 5;
  PromptOptions how;
};

void PrintAsJson(const RunOptions& options, const client::ForwardResult& result, const Predictions& predictions) {
  const v1::RowInfo& row = result.header.rows(0);
  PrintJson({{"prompt", options.prompt},
             {"tokens", TokensToJson(row)},
             {"bos_added", row.bos_added()},
             {"top", ToJson(predictions)},
             {"queue_ms", result.summary.queue_ms()},
             {"run_ms", result.summary.run_ms()},
             {"provenance", ToJson(result.header.provenance())}});
}

void PrintForPeople(const client::ForwardResult& result, const Predictions& predictions) {
  const bool colour = WantsColour(stdout);
  const v1::RowInfo& row = result.header.rows(0);
  std::string tokens;
  for (const std::string& token : row.tokens()) tokens += (tokens.empty() ? "" : " ") + Quoted(token);
  fmt::print(
      "{}  {}\n",
      Bold(fmt::format("{} token{}{}", row.token_ids_size(), row.token_ids_size() == 1 ? "" : "s", row.bos_added() ? " (BOS added)" : ""),
           colour),
      tokens);
  Table table({{"NEXT TOKEN"}, {"ID", Align::kRight}, {"PROBABILITY", Align::kRight}, {"LOGIT", Align::kRight}});
  for (const Prediction& p : predictions) {
    table.Add({Quoted(p.token), std::to_string(p.id), fmt::format("{:.4f}", std::exp(p.log_probability)), fmt::format("{:.3f}", p.logit)});
  }
  const v1::Provenance& provenance = result.header.provenance();
  fmt::print("\n{}\n{}\n", table.ToString(colour),
             Dim(fmt::format("{} {} on {}, {:.1f} ms in the queue, {:.1f} ms running", provenance.model(), provenance.dtype(),
                             provenance.device(), result.summary.queue_ms(), result.summary.run_ms()),
                 colour));
}

absl::Status RunForward(const client::Client& client, const Global& global, RunOptions options) {
  ReadDash(&options.prompt);
  v1::ForwardRequest request;
  request.set_model(options.model);
  request.mutable_logits()->set_top_k(options.top);
  if (absl::Status status = SetPrompt(options.prompt, "prompt", options.how, request.add_prompts()); !status.ok()) return status;
  auto result = client.Forward(request);
  if (!result.ok()) return result.status();
  if (result->header.rows_size() != 1) return absl::InternalError("the server's reply does not describe the one prompt that was sent");
  auto predictions = ReadPredictions(result->Find("top.tokens"), result->Find("top.logits"), result->Find("top.logprobs"));
  if (!predictions.ok()) return predictions.status();
  if (absl::Status status = AddTexts(client, options.model, *predictions); !status.ok()) return status;
  for (const std::string& warning : result->summary.warnings()) fmt::print(stderr, "warning: {}\n", warning);
  if (global.json) {
    PrintAsJson(options, *result, *predictions);
  } else {
    PrintForPeople(*result, *predictions);
  }
  return absl::OkStatus();
}

}  // namespace

void AddRun(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("run", "Runs a prompt and shows the most probable next tokens");
  auto options = std::make_shared<RunOptions>();
  command->add_option("MODEL", options->model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command->add_option("PROMPT", options->prompt, "The text to run, or - to read it from standard input")->required()->option_text(" ");
  command->add_option("--top", options->top, "How many next tokens to show (5)")->check(CLI::Range(1u, 1000000u))->option_text("N");
  AddPromptOptions(*command, &options->how);
  command->callback([&global, action, options] {
    *action = [&global, options](const client::Client& client) { return RunForward(client, global, *options); };
  });
}

}  // namespace fluoroscope::cli
