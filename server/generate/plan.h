// A generation, resolved: the run of its prompts, and what its continuations are to do at every generated token. Made by engine/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "run/plan.h"
#include "tokenizer/tokenizer.h"

namespace fluoroscope::generate {

struct SamplingPlan {
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  uint64_t seed = 0;
};

// What a prompt's continuations share.
struct ContinuationPlan {
  size_t prompt = 0;         // index into the rows of GeneratePlan::prompts
  std::vector<size_t> k, v;  // by layer: keys into what the prompts' run keeps; k as the scores read it
  size_t logits = 0;         // the same, of the prompt's last position: f32 [1, vocabulary]
  // At generated positions. Their places have one position, which says nothing: each token that runs puts its own there.
  std::vector<run::EditPlan> edits;  // in the order given
  std::vector<run::CapturePlan> captures;
};

struct GeneratePlan {
  run::RunPlan prompts;  // finished
  std::vector<ContinuationPlan> continuations;
  uint32_t samples = 1;  // of each
  int64_t max_new_tokens = 1;
  SamplingPlan sampling;
  std::vector<std::string> stop;
  std::vector<int64_t> end_tokens;  // empty when the request ignores them
  int64_t top_logprobs = 0;
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer;  // null: texts stay empty
};

}  // namespace fluoroscope::generate
