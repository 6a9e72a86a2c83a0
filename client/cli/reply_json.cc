#include "client/cli/reply_json.h"

namespace fluoroscope::cli {

nlohmann::ordered_json ToJson(const v1::Provenance& p) {
  return {{"model", p.model()},
          {"revision", p.revision()},
          {"weights_sha256", p.weights_sha256()},
          {"tokenizer_sha256", p.tokenizer_sha256()},
          {"weight_processing", p.weight_processing()},
          {"dtype", p.dtype()},
          {"device", p.device()},
          {"attention", p.attention()},
          {"server_version", p.server_version()},
          {"plan_sha256", p.plan_sha256()},
          {"isolated", p.isolated()},
          {"threads", p.threads()}};
}

nlohmann::ordered_json TokensToJson(const v1::RowInfo& row) {
  auto tokens = nlohmann::ordered_json::array();
  for (int i = 0; i < row.token_ids_size(); ++i)
    tokens.push_back({{"id", row.token_ids(i)}, {"token", i < row.tokens_size() ? row.tokens(i) : ""}});
  return tokens;
}

}  // namespace fluoroscope::cli
