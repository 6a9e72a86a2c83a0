// What comes back, as data: the domain types behind the reply messages.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/handle.h"
#include "api/sink.h"
#include "api/tensor.h"

namespace fluoroscope::api {

struct Provenance {
  std::string model, revision, weights_sha256, tokenizer_sha256;
  std::string weight_processing = "none";
  std::string dtype, device;
  std::string attention;  // "fused", "explicit" or "mixed"
  std::string server_version, plan_sha256;
  bool isolated = false;
  uint32_t threads = 0;
};

struct RowInfo {
  std::vector<int64_t> token_ids;
  std::vector<std::string> tokens;  // each id decoded on its own
  bool bos_added = false;
};

struct ForwardHeader {
  Provenance provenance;
  std::vector<RowInfo> rows;
};

// One tensor of a reply with its bytes. Ids are given by the sender (rpc/) in the order of sending.
struct NamedTensor {
  std::string name;  // hook name, "logits", "top.tokens", "top.logits", "top.logprobs"
  uint32_t row = 0;
  std::optional<uint32_t> layer;
  std::vector<int32_t> positions;
  std::vector<int64_t> token_ids;
  std::vector<int32_t> heads;  // only when the capture chose some
  std::vector<int32_t> units;  // the same
  uint32_t capture = 0;
  std::string part;                // "", "values" or "indices"
  std::optional<uint32_t> sample;  // of generated tokens
  std::string gradient_of = {};    // the metric whose gradient in the value this is; empty: it is the value
  Chunk data;
};

struct MetricValue {
  std::string name;
  uint32_t row = 0;
  int32_t position = 0;
  double value = 0;
};

struct ForwardSummary {
  std::vector<MetricValue> metrics;
  double queue_ms = 0;
  double run_ms = 0;
  uint64_t tokens = 0;
  uint64_t peak_bytes = 0;
  uint64_t reused_tokens = 0;
  std::vector<std::string> warnings;
};

enum class FinishReason { kLength, kEndOfSequence, kStop };

struct LikelyToken {
  int64_t id = 0;
  std::string text;
  double logprob = 0;
};

struct GeneratedToken {
  uint32_t row = 0, sample = 0, index = 0;
  int64_t id = 0;
  std::string text;
  double logprob = 0;
  std::vector<LikelyToken> top;
  std::optional<FinishReason> finish;
  std::optional<uint32_t> stop;  // index into GenerateRequest::stop
};

// Only a generation has tokens, only a Forward handles.
using ForwardPart = std::variant<ForwardHeader, NamedTensor, ForwardSummary, GeneratedToken, Handle>;

using ForwardSink = Sink<ForwardPart>;

struct Estimate {
  uint64_t peak_bytes = 0, reply_bytes = 0, tokens = 0, budget_bytes = 0;
  double flops = 0;
  uint32_t waves = 0;
};

struct ModelInfo {
  std::string name, family;
  uint32_t layers = 0, d_model = 0, heads = 0, kv_heads = 0, d_head = 0, d_mlp = 0, vocabulary = 0, context = 0;
  uint64_t parameters = 0, weight_bytes = 0;
  std::string dtype, device, weights_sha256, tokenizer_sha256, revision;
  bool default_bos = false;
  double norm_eps = 0;
};

struct SiteInfo {
  std::string name, equation;
  std::vector<std::string> axes;
  std::vector<int64_t> shape;  // -1: depends on the prompt
  bool readable = false, editable = false, has_gradient = false;
  std::string unavailable_because;
};

struct ChatTemplate {
  std::string text;
  std::map<std::string, std::string> special_tokens;  // by the name a template uses
};

struct ModelDetails {
  ModelInfo info;
  std::vector<SiteInfo> sites;
  std::optional<ChatTemplate> chat_template;
  std::vector<int64_t> end_of_sequence;
};

}  // namespace fluoroscope::api
