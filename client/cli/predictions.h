// Tokens that a model finds likely, as replies bring them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace fluoroscope::cli {

struct Prediction {
  int64_t id = 0;
  std::string token;  // its text
  double logit = 0, log_probability = 0;
};
using Predictions = std::vector<Prediction>;

// {"token": " Paris", "id": 7042, "probability": …, "log_probability": …, "logit": …}
nlohmann::ordered_json ToJson(const Prediction& prediction);
nlohmann::ordered_json ToJson(const Predictions& predictions);

// The numbers of three tensors of one shape, flattened, without texts. INTERNAL when one is missing (null) or they do not fit together.
absl::StatusOr<Predictions> ReadPredictions(const client::Tensor* tokens, const client::Tensor* logits, const client::Tensor* logprobs);
// The same for tokens that were asked for, so that the reply does not name them: `ids` go round along the last axis.
absl::StatusOr<Predictions> ReadPredictions(const std::vector<int64_t>& ids, const client::Tensor* logits, const client::Tensor* logprobs);

// Asks the server for the texts. `Predictions` may be long: every id is asked for once.
absl::Status AddTexts(const client::Client& client, const std::string& model, Predictions& predictions);

// The ids of texts that are one token each; INVALID_ARGUMENT for others.
absl::StatusOr<std::vector<int64_t>> TokenIds(const client::Client& client, const std::string& model,
                                              const std::vector<std::string>& texts);

}  // namespace fluoroscope::cli
