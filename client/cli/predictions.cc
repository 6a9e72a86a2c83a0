#include "client/cli/predictions.h"

#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

// A prompt of ids may not be longer than the model's context.
constexpr int kIdsAtOnce = 64;

absl::Status Lacking() {
  return absl::InternalError("the server's reply lacks the tokens, logits or log-probabilities that were asked for");
}

absl::StatusOr<Predictions> Joined(const std::vector<int64_t>& ids, const client::Tensor* logits, const client::Tensor* logprobs) {
  if (logits == nullptr || logprobs == nullptr) return Lacking();
  const auto logit = logits->ToFloats(), logprob = logprobs->ToFloats();
  if (!logit.ok()) return logit.status();
  if (!logprob.ok()) return logprob.status();
  if (logit->size() != logprob->size() || ids.empty() || logit->size() % ids.size() != 0)
    return absl::InternalError("tokens, logits and log-probabilities of the server's reply differ in size");
  Predictions predictions;
  for (size_t i = 0; i < logit->size(); ++i) predictions.push_back({ids[i % ids.size()], "", (*logit)[i], (*logprob)[i]});
  return predictions;
}

}  // namespace

nlohmann::ordered_json ToJson(const Prediction& p) {
  return {{"token", p.token},
          {"id", p.id},
          {"probability", std::exp(p.log_probability)},
          {"log_probability", p.log_probability},
          {"logit", p.logit}};
}

nlohmann::ordered_json ToJson(const Predictions& predictions) {
  auto list = nlohmann::ordered_json::array();
  for (const Prediction& p : predictions) list.push_back(ToJson(p));
  return list;
}

absl::StatusOr<Predictions> ReadPredictions(const client::Tensor* tokens, const client::Tensor* logits, const client::Tensor* logprobs) {
  if (tokens == nullptr || logits == nullptr) return Lacking();
  const auto ids = tokens->AsInt64s();
  if (!ids.ok()) return ids.status();
  if (tokens->shape != logits->shape) return absl::InternalError("tokens and logits of the server's reply differ in shape");
  return Joined({ids->begin(), ids->end()}, logits, logprobs);
}

absl::StatusOr<Predictions> ReadPredictions(const std::vector<int64_t>& ids, const client::Tensor* logits, const client::Tensor* logprobs) {
  return Joined(ids, logits, logprobs);
}

absl::Status AddTexts(const client::Client& client, const std::string& model, Predictions& predictions) {
  std::map<int64_t, std::string> texts;
  for (const Prediction& p : predictions) texts[p.id];
  for (auto next = texts.begin(); next != texts.end();) {
    v1::TokenizeRequest request;  // of one prompt: a server's limits.max_prompts allows at least that
    request.set_model(model);
    v1::TokenIds& ids = *request.add_prompts()->mutable_tokens();
    for (auto id = next; id != texts.end() && ids.ids_size() < kIdsAtOnce; ++id) ids.add_ids(id->first);
    const auto reply = client.Tokenize(request);
    if (!reply.ok()) return reply.status();
    if (reply->rows_size() != 1 || reply->rows(0).tokens_size() != ids.ids_size())
      return absl::InternalError(
          absl::StrCat("asked for the texts of ", ids.ids_size(), " tokens, the server sent another number of them"));
    for (const std::string& text : reply->rows(0).tokens()) (next++)->second = text;
  }
  for (Prediction& p : predictions) p.token = texts.at(p.id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> TokenIds(const client::Client& client, const std::string& model,
                                              const std::vector<std::string>& texts) {
  v1::TokenizeRequest request;
  request.set_model(model);
  for (const std::string& text : texts) {
    v1::Prompt* prompt = request.add_prompts();
    prompt->set_text(text);
    prompt->set_bos(v1::BOS_NEVER);
  }
  const auto reply = client.Tokenize(request);
  if (!reply.ok()) return reply.status();
  std::vector<int64_t> ids;
  for (int i = 0; i < reply->rows_size(); ++i) {
    if (reply->rows(i).token_ids_size() != 1)
      return absl::InvalidArgumentError(absl::StrCat(Quoted(texts[i]), " is not one token, but ", reply->rows(i).token_ids_size()));
    ids.push_back(reply->rows(i).token_ids(0));
  }
  if (ids.size() != texts.size()) return absl::InternalError("the server's reply has fewer rows than were asked for");
  return ids;
}

}  // namespace fluoroscope::cli
