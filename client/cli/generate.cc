// fluoroscope generate MODEL PROMPT
#include <fmt/core.h>

#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/prompt.h"
#include "client/cli/reply_json.h"

namespace fluoroscope::cli {
namespace {

struct GenerateOptions {
  std::string model, prompt;
  uint32_t max_new_tokens = 64, top_k = 0, samples = 1, top_logprobs = 0;
  double temperature = 0, top_p = 1, min_p = 0, repetition_penalty = 1;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false, isolated = false;
  PromptOptions how;
};

absl::StatusOr<v1::GenerateRequest> RequestOf(const GenerateOptions& options) {
  v1::GenerateRequest request;
  request.set_model(options.model);
  if (absl::Status status = SetPrompt(options.prompt, "prompt", options.how, request.add_prompts()); !status.ok()) return status;
  request.set_max_new_tokens(options.max_new_tokens);
  request.set_samples(options.samples);
  request.set_ignore_eos(options.ignore_eos);
  request.set_isolated(options.isolated);
  request.set_top_logprobs(options.top_logprobs);
  for (const std::string& stop : options.stop) {
    if (!IsUtf8(stop)) return absl::InvalidArgumentError("a --stop text is not UTF-8");
    request.add_stop(stop);
  }
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(options.temperature);
  sampling.set_top_k(options.top_k);
  sampling.set_top_p(options.top_p);
  sampling.set_min_p(options.min_p);
  sampling.set_repetition_penalty(options.repetition_penalty);
  std::random_device random;
  sampling.set_seed(options.seed.value_or(uint64_t{random()} << 32 | random()));
  return request;
}

const char* NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_EOS:
      return "eos";
    case v1::FINISH_REASON_STOP:
      return "stop";
    default:
      return "unknown";
  }
}

nlohmann::ordered_json TokenJson(const v1::GeneratedToken& token) {
  nlohmann::ordered_json json = {{"token", token.text()}, {"id", token.id()}, {"log_probability", token.logprob()}};
  for (const v1::LikelyToken& likely : token.top())
    json["top"].push_back({{"token", likely.text()}, {"id", likely.id()}, {"log_probability", likely.logprob()}});
  return json;
}

// The continuations, put together as their tokens come in.
struct Continuation {
  std::string text;
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  std::string finish_reason;
};

void PrintAsJson(const GenerateOptions& options, uint64_t seed, const std::vector<Continuation>& continuations,
                 const client::ForwardResult& result) {
  auto list = nlohmann::ordered_json::array();
  for (const Continuation& one : continuations)
    list.push_back({{"text", one.text}, {"finish_reason", one.finish_reason}, {"tokens", one.tokens}});
  const v1::RowInfo& row = result.header.rows(0);
  PrintJson({{"prompt", options.prompt},
             {"tokens", TokensToJson(row)},
             {"bos_added", row.bos_added()},
             {"seed", seed},
             {"continuations", list},
             {"reused_tokens", result.summary.reused_tokens()},
             {"queue_ms", result.summary.queue_ms()},
             {"run_ms", result.summary.run_ms()},
             {"provenance", ToJson(result.header.provenance())}});
}

// Beside the text, for whoever watches: how much of the prompt was there already.
void PrintCosts(const client::ForwardResult& result) {
  if (!WantsColour(stderr)) return;
  const v1::ForwardSummary& summary = result.summary;
  fmt::print(stderr, "{}\n",
             Dim(fmt::format("{} of {} prompt tokens reused from an earlier call, {:.1f} ms in the queue, {:.1f} ms running",
                             summary.reused_tokens(), result.header.rows(0).token_ids_size(), summary.queue_ms(), summary.run_ms()),
                 true));
}

absl::Status Generate(const client::Client& client, const Global& global, GenerateOptions options) {
  ReadDash(&options.prompt);
  auto request = RequestOf(options);
  if (!request.ok()) return request.status();
  const bool stream = !global.json && options.samples == 1;  // several are shown one after the other
  std::vector<Continuation> continuations(options.samples);
  bool begun = false;
  auto result = client.Generate(*request, [&](const v1::GeneratedToken& token) {
    if (token.sample() >= continuations.size()) return;
    Continuation& one = continuations[token.sample()];
    one.text += token.text();
    one.tokens.push_back(TokenJson(token));
    if (token.has_finish_reason()) one.finish_reason = NameOf(token.finish_reason());
    if (!stream) return;
    if (!std::exchange(begun, true)) fmt::print("{}", Dim(options.prompt, WantsColour(stdout)));
    fmt::print("{}", token.text());
    std::fflush(stdout);
  });
  if (stream && begun) fmt::print("\n");
  if (!result.ok()) return result.status();
  if (result->header.rows_size() != 1) return absl::InternalError("the server's reply does not describe the one prompt that was sent");
  for (const std::string& warning : result->summary.warnings()) fmt::print(stderr, "warning: {}\n", warning);
  if (global.json) {
    PrintAsJson(options, request->sampling().seed(), continuations, *result);
  } else if (!stream) {
    const bool colour = WantsColour(stdout);
    for (size_t i = 0; i < continuations.size(); ++i)
      fmt::print("{}\n{}{}\n{}", Bold(fmt::format("sample {}", i), colour), Dim(options.prompt, colour), continuations[i].text,
                 i + 1 < continuations.size() ? "\n" : "");
  }
  if (!global.json) {
    std::fflush(stdout);
    PrintCosts(*result);
  }
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, const Global& global, Action* action) {
  CLI::App* command = app.add_subcommand("generate", "Lets the model go on with a prompt, and shows the text as it comes");
  auto options = std::make_shared<GenerateOptions>();
  command->add_option("MODEL", options->model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command->add_option("PROMPT", options->prompt, "The text to go on with, or - to read it from standard input")
      ->required()
      ->option_text(" ");
  command->add_option("--max-new-tokens", options->max_new_tokens, "How many tokens at most (64)")->option_text("N");
  command->add_option("--temperature", options->temperature, "0: always the most likely token; over 0 tokens are drawn (0)")
      ->option_text("T");
  command->add_option("--top-k", options->top_k, "Draw only from the K most likely tokens (0: all)")->option_text("K");
  command->add_option("--top-p", options->top_p, "Draw only from the most likely tokens that have the probability P together (1)")
      ->option_text("P");
  command->add_option("--min-p", options->min_p, "Draw only from tokens at least P times as likely as the most likely one (0)")
      ->option_text("P");
  command->add_option("--repetition-penalty", options->repetition_penalty, "Over 1: tokens that were there already become less likely (1)")
      ->option_text("X");
  command->add_option("--seed", options->seed, "The same seed draws the same tokens; a new one each time without")->option_text("N");
  command->add_option("--samples", options->samples, "How many continuations (1)")
      ->check(CLI::Range(1u, 1024u).description(""))
      ->option_text("N");
  command->add_option("--stop", options->stop, "End where the text contains this; may be given several times")
      ->option_text("TEXT")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--top-logprobs", options->top_logprobs, "With --json: so many of the most likely tokens, with each token (0)")
      ->option_text("N");
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on behind the model's end-of-sequence tokens");
  command->add_flag(
      "--isolated", options->isolated,
      "The continuation steps alone, and nothing of the prompt is reused from earlier calls: a repeat gives the same bits. Otherwise "
      "the beginning of a prompt that this --principal had run before is not run again");
  AddPromptOptions(*command, &options->how);
  command->callback([&global, action, options] {
    *action = [&global, options](const client::Client& client) { return Generate(client, global, *options); };
  });
}

}  // namespace fluoroscope::cli
