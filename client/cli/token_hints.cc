#include "client/cli/token_hints.h"

#include <fmt/core.h>

#include <cctype>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

// A letter or digit, of any script. What is no word (",") stands behind a word without a space.
bool BeginsWord(const std::string& text) {
  const auto first = text.empty() ? '\0' : static_cast<unsigned char>(text.front());
  return std::isalnum(first) != 0 || first >= 0x80;
}

bool EndsInSpace(const std::string& text) { return !text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0; }

}  // namespace

void WarnOfMissingSpaces(const client::Client& client, const PairOptions& options) {
  for (const auto* prompt : {&options.clean, &options.corrupt})
    if (*prompt && EndsInSpace(**prompt)) return;
  std::vector<std::pair<const char*, std::string>> words;
  for (const auto& [option, tokens] : {std::pair{"--answer", &options.answers}, std::pair{"--foil", &options.foils}})
    for (const std::string& token : *tokens)
      if (BeginsWord(token) && IsUtf8(token)) words.emplace_back(option, token);
  if (words.empty()) return;
  v1::TokenizeRequest request;
  request.set_model(options.model);
  for (const auto& [option, word] : words)
    for (const char* front : {"", " "}) {
      v1::Prompt* prompt = request.add_prompts();
      prompt->set_text(front + word);
      prompt->set_bos(v1::BOS_NEVER);
    }
  const auto reply = client.Tokenize(request);
  if (!reply.ok() || reply->rows_size() != request.prompts_size()) return;
  for (size_t i = 0; i < words.size(); ++i) {
    const auto &bare = reply->rows(static_cast<int>(2 * i)), &spaced = reply->rows(static_cast<int>(2 * i + 1));
    if (bare.token_ids_size() != 1 || spaced.token_ids_size() != 1 || bare.token_ids(0) == spaced.token_ids(0)) continue;
    fmt::print(stderr,
               "warning: {} {} is token {}, a word without a space in front; {} is one token too, {}, and what usually follows a prompt\n",
               words[i].first, Quoted(words[i].second), bare.token_ids(0), Quoted(" " + words[i].second), spaced.token_ids(0));
  }
}

}  // namespace fluoroscope::cli
