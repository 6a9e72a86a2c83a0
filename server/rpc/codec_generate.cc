#include "rpc/codec_generate.h"

#include <cmath>
#include <limits>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_intervention.h"
#include "rpc/codec_models.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

constexpr uint32_t kMostTopLogprobs = 100;
constexpr int kMostStops = 64;
constexpr size_t kMostStopBytes = 1024;

// One stream sends both kinds of reply (forward_stream.h), and clients read both with one reader.
static_assert(int{pb::GenerateReply::kHeaderFieldNumber} == int{pb::ForwardReply::kHeaderFieldNumber});
static_assert(int{pb::GenerateReply::kTensorFieldNumber} == int{pb::ForwardReply::kTensorFieldNumber});
static_assert(int{pb::GenerateReply::kChunkFieldNumber} == int{pb::ForwardReply::kChunkFieldNumber});
static_assert(int{pb::GenerateReply::kPackFieldNumber} == int{pb::ForwardReply::kPackFieldNumber});
static_assert(int{pb::GenerateReply::kSummaryFieldNumber} == int{pb::ForwardReply::kSummaryFieldNumber});

absl::StatusOr<api::Sampling> DecodeSampling(const pb::Sampling& from) {
  const FieldPath root;
  const FieldPath path{&root, "sampling"};
  api::Sampling out;
  out.temperature = from.temperature();
  if (!(out.temperature >= 0) || !std::isfinite(out.temperature))
    return InvalidAt({&path, "temperature"}, "is ", out.temperature, "; it must be finite and at least 0 (0: greedy)");
  // Logits are divided by it: below this the quotients of ordinary ones overflow.
  constexpr double kLeast = 1e-6;
  if (out.temperature > 0 && out.temperature < kLeast)
    return InvalidAt({&path, "temperature"}, "is ", out.temperature, "; it must be 0 (greedy) or at least ", kLeast);
  out.top_k = from.top_k();
  if (from.has_top_p()) out.top_p = from.top_p();
  if (!(out.top_p > 0 && out.top_p <= 1)) return InvalidAt({&path, "top_p"}, "is ", out.top_p, "; it must be over 0 and at most 1");
  if (from.has_min_p()) out.min_p = from.min_p();
  if (!(out.min_p >= 0 && out.min_p <= 1)) return InvalidAt({&path, "min_p"}, "is ", out.min_p, "; it must be from 0 to 1");
  if (from.has_repetition_penalty()) out.repetition_penalty = from.repetition_penalty();
  if (!(out.repetition_penalty > 0) || !std::isfinite(out.repetition_penalty))
    return InvalidAt({&path, "repetition_penalty"}, "is ", out.repetition_penalty, "; it must be finite and over 0 (1: none)");
  out.seed = from.seed();
  return out;
}

absl::Status DecodeStops(const pb::GenerateRequest& request, api::GenerateRequest& out) {
  const FieldPath root;
  FS_RETURN_IF_ERROR(CheckEntries({&root, "stop"}, request.stop_size(), kMostStops));
  for (int i = 0; i < request.stop_size(); ++i) {
    const std::string& stop = request.stop(i);
    if (stop.empty()) return InvalidAt({&root, "stop", i}, "is empty: every text contains that");
    if (stop.size() > kMostStopBytes)
      return InvalidAt({&root, "stop", i}, "has ", stop.size(), " bytes; at most ", kMostStopBytes, " are allowed");
    out.stop.push_back(stop);
  }
  return absl::OkStatus();
}

absl::Status DecodePlan(const pb::GenerateRequest& request, api::GenerateRequest& out) {
  const FieldPath root;
  FS_RETURN_IF_ERROR(CheckEntries({&root, "captures"}, request.captures_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&root, "interventions"}, request.interventions_size(), kMaxInterventions));
  for (int i = 0; i < request.captures_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Capture capture, DecodeCapture(request.captures(i), out.prompts.size(), {&root, "captures", i}));
    if (!capture.gradient_of.empty()) return InvalidAt({&root, "captures", i}, "has gradient_of; only Inference.Forward takes gradients");
    if (capture.keep_seconds > 0)
      return InvalidAt(
          {&root, "captures", i},
          "has keep; only Inference.Forward keeps captures on the server: give it the prompt with the generated ids behind it");
    out.captures.push_back(std::move(capture));
  }
  for (int i = 0; i < request.interventions_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Intervention intervention,
                        DecodeIntervention(request.interventions(i), out.prompts.size(), {&root, "interventions", i}));
    out.interventions.push_back(std::move(intervention));
  }
  return absl::OkStatus();
}

pb::FinishReason Encode(api::FinishReason reason) {
  switch (reason) {
    case api::FinishReason::kLength:
      return pb::FINISH_REASON_LENGTH;
    case api::FinishReason::kEndOfSequence:
      return pb::FINISH_REASON_EOS;
    case api::FinishReason::kStop:
      return pb::FINISH_REASON_STOP;
  }
  return pb::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

absl::StatusOr<api::GenerateRequest> DecodeGenerate(const pb::GenerateRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::GenerateRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  FS_ASSIGN_OR_RETURN(out.prompts, DecodePrompts(request.prompts(), limits));
  for (size_t i = 0; i < out.prompts.size(); ++i)
    if (std::holds_alternative<api::Activations>(out.prompts[i].input))
      return InvalidAt({&root, "prompts", static_cast<int>(i)}, "begins with activations; a generation needs text or token ids");
  if (request.sources() >= out.prompts.size())
    return InvalidAt({&root, "sources"}, "is ", request.sources(), " of ", out.prompts.size(), " prompts; at least one must generate");
  out.sources = request.sources();
  FS_RETURN_IF_ERROR(DecodePlan(request, out));
  constexpr uint32_t kMost = std::numeric_limits<int32_t>::max();
  if (request.max_new_tokens() < 1 || request.max_new_tokens() > kMost)
    return InvalidAt({&root, "max_new_tokens"}, "is ", request.max_new_tokens(), "; it must be at least 1 and fit the model's context");
  out.max_new_tokens = request.max_new_tokens();
  out.isolated = request.isolated();
  FS_ASSIGN_OR_RETURN(out.sampling, DecodeSampling(request.sampling()));
  if (request.has_samples()) out.samples = request.samples();
  if (out.samples < 1) return InvalidAt({&root, "samples"}, "is 0; it must be at least 1");
  if (out.samples > 1 && out.sampling.temperature == 0)
    return InvalidAt({&root, "samples"}, "is ", out.samples, " with temperature 0, where all would be the same; give a temperature over 0");
  FS_RETURN_IF_ERROR(DecodeStops(request, out));
  out.ignore_eos = request.ignore_eos();
  if (request.top_logprobs() > kMostTopLogprobs)
    return InvalidAt({&root, "top_logprobs"}, "is ", request.top_logprobs(), "; at most ", kMostTopLogprobs, " are allowed");
  out.top_logprobs = request.top_logprobs();
  return out;
}

void EncodeToken(const api::GeneratedToken& token, pb::GeneratedToken* out) {
  out->set_row(token.row);
  out->set_sample(token.sample);
  out->set_index(token.index);
  out->set_id(token.id);
  out->set_text(token.text);
  out->set_logprob(token.logprob);
  for (const api::LikelyToken& likely : token.top) {
    pb::LikelyToken* to = out->add_top();
    to->set_id(likely.id);
    to->set_text(likely.text);
    to->set_logprob(likely.logprob);
  }
  if (token.finish) out->set_finish_reason(Encode(*token.finish));
  if (token.stop) out->set_stop(*token.stop);
}

}  // namespace fluoroscope::rpc
