// Whatever the bytes of a generation request are: no crash, and what is accepted keeps the codec's promises.
#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "rpc/codec_generate.h"

namespace {

namespace api = fluoroscope::api;
namespace rpc = fluoroscope::rpc;

constexpr rpc::DecodeLimits kLimits{.max_prompts = 64, .max_tokens = 4096};

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckSelection(const api::Selection& select, size_t prompts) {
  Require(!select.sites.empty());
  Require(!select.positions || !select.positions->empty());
  for (const uint32_t row : select.rows) Require(row < prompts);
}

void CheckGenerate(const api::GenerateRequest& request) {
  const size_t prompts = request.prompts.size();
  Require(!request.model.empty() && prompts > 0 && prompts <= kLimits.max_prompts && request.sources < prompts);
  for (const api::Prompt& prompt : request.prompts) Require(!std::holds_alternative<api::Activations>(prompt.input));
  for (const api::Capture& capture : request.captures) CheckSelection(capture.select, prompts);
  for (const api::Intervention& intervention : request.interventions) CheckSelection(intervention.select, prompts);
  const api::Sampling& sampling = request.sampling;
  Require(std::isfinite(sampling.temperature) && sampling.temperature >= 0);
  Require(sampling.top_p > 0 && sampling.top_p <= 1 && sampling.min_p >= 0 && sampling.min_p <= 1);
  Require(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0);
  Require(request.max_new_tokens > 0 && request.samples > 0 && (request.samples == 1 || sampling.temperature > 0));
  for (const std::string& stop : request.stop) Require(!stop.empty());
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fluoroscope::v1::GenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  if (const auto request = rpc::DecodeGenerate(message, kLimits); request.ok()) CheckGenerate(*request);
  return 0;
}
