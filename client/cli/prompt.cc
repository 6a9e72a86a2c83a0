#include "client/cli/prompt.h"

#include <iostream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {

void AddPromptOptions(CLI::App& command, PromptOptions* options) {
  command.add_option("--bos", options->bos, "Begin-of-sequence token: default (what the model's tokenizer does), always or never")
      ->check(CLI::IsMember({"default", "always", "never"}).description(""))
      ->option_text("WHEN");
  command.add_flag("--parse-special-tokens", options->parse_special_tokens,
                   "Special tokens written in the prompt (<|im_start|>) become their ids");
}

void ReadDash(std::string* prompt) {
  if (*prompt == "-") prompt->assign(std::istreambuf_iterator<char>(std::cin), {});
}

absl::Status SetPrompt(const std::string& text, const std::string& what, const PromptOptions& options, v1::Prompt* prompt) {
  if (!IsUtf8(text)) return absl::InvalidArgumentError(absl::StrCat("the ", what, " is not UTF-8 text"));
  prompt->set_text(text);
  prompt->set_bos(options.bos == "always" ? v1::BOS_ALWAYS : options.bos == "never" ? v1::BOS_NEVER : v1::BOS_DEFAULT);
  prompt->set_parse_special_tokens(options.parse_special_tokens);
  return absl::OkStatus();
}

}  // namespace fluoroscope::cli
