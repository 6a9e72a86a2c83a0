#include "client/cli/pair_options.h"

#include "absl/strings/str_cat.h"
#include "client/cli/align.h"
#include "client/cli/list_option.h"
#include "client/cli/notation.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

void FillTokens(const std::vector<std::string>& from, auto* to) {
  for (const std::string& token : from) to->Add()->set_text(token);
}

}  // namespace

void AddPairOptions(CLI::App& command, PairOptions* o) {
  command.add_option("MODEL", o->model, "Name of the model, as `fluoroscope models` lists it")->required()->option_text(" ");
  command.add_option("--clean", o->clean, "The prompt with the right answer")->option_text("TEXT");
  command.add_option("--corrupt", o->corrupt, "The prompt that lacks what matters; as many tokens, or see --align")->option_text("TEXT");
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
}

void AddAlignOptions(CLI::App& command, PairOptions* o) {
  AddListOption(command, "--source-positions", &o->source_positions,
                "For prompts of unequal length: for each position of the prompt that is run, the other's position whose value goes there, "
                "-1 for none");
  command.add_flag(
      "--align", o->align,
      "For prompts of unequal length: finds --source-positions. Equal stretches of tokens belong together, and so do stretches "
      "of equal length between them");
  AddPromptOptions(command, &o->how);
}

absl::Status FillPair(const PairOptions& options, v1::SweepPair* pair) {
  if (options.align && !options.source_positions.empty())
    return absl::InvalidArgumentError("--align and --source-positions exclude each other: the one finds what the other gives");
  absl::Status status;
  if (options.clean) status = SetPrompt(*options.clean, "clean prompt", options.how, pair->mutable_clean());
  if (status.ok() && options.corrupt) status = SetPrompt(*options.corrupt, "corrupt prompt", options.how, pair->mutable_corrupt());
  if (status.ok()) status = FillNumbers(options.source_positions, "--source-positions", pair->mutable_source_positions());
  return status;
}

absl::Status FillMetric(const PairOptions& options, v1::Metric* metric) {
  const std::string kind = !options.metric.empty() ? options.metric : options.foils.empty() ? "logits" : "logit_diff";
  metric->set_name(kind);
  for (const auto* tokens : {&options.answers, &options.foils})
    for (const std::string& token : *tokens)
      if (!IsUtf8(token))
        return absl::InvalidArgumentError(tokens == &options.answers ? "--answer: not UTF-8 text" : "--foil: not UTF-8 text");
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

absl::Status AlignPair(const client::Client& client, const PairOptions& options, bool noise, v1::SweepPair* pair) {
  if (!options.align) return absl::OkStatus();
  if (!pair->has_clean() || !pair->has_corrupt()) return absl::InvalidArgumentError("--align needs both prompts");
  v1::TokenizeRequest tokenize;
  tokenize.set_model(options.model);
  *tokenize.add_prompts() = noise ? pair->corrupt() : pair->clean();
  *tokenize.add_prompts() = noise ? pair->clean() : pair->corrupt();
  const auto reply = client.Tokenize(tokenize);
  if (!reply.ok()) return reply.status();
  std::vector<int64_t> ids[2];
  for (int i = 0; i < 2 && i < reply->rows_size(); ++i) ids[i].assign(reply->rows(i).token_ids().begin(), reply->rows(i).token_ids().end());
  for (const int32_t position : AlignTokens(ids[0], ids[1])) pair->add_source_positions(position);
  return absl::OkStatus();
}

}  // namespace fluoroscope::cli
