// Generation, as data: the domain types behind GenerateRequest in proto/fluoroscope/v1/inference.proto, which documents every field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/plan.h"

namespace fluoroscope::api {

// rpc/ has checked the ranges.
struct Sampling {
  double temperature = 0;
  uint32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  uint64_t seed = 0;
};

struct GenerateRequest {
  std::string model;
  std::vector<Prompt> prompts;  // text or ids
  std::vector<Capture> captures;
  std::vector<Intervention> interventions;
  uint32_t max_new_tokens = 1;
  Sampling sampling;
  uint32_t samples = 1;
  std::vector<std::string> stop;  // none empty
  bool ignore_eos = false;
  uint32_t top_logprobs = 0;
  uint32_t sources = 0;  // fewer than prompts
  bool isolated = false;
};

}  // namespace fluoroscope::api
