// What one generation takes from the prefix cache, and leaves there.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "generate/generating_row.h"
#include "generate/plan.h"
#include "generate/prefix_cache.h"

namespace fluoroscope::generate {

// So many of a prompt's first positions have the keys and values that nothing but its tokens decides: nobody edits at or in front of them.
int64_t UneditedPositions(const run::RowPlan& row);

// So many of a continuation's first prompt positions need not run when their keys and values are known: unedited, and with nothing to be
// captured there. 0 for rows that others read from, and in isolated runs. The last position always runs: its logits are wanted.
int64_t SkippablePositions(const GeneratePlan& plan, const ContinuationPlan& continuation);

// Belongs to a GenerateRun, used on the executor's thread.
class PrefixUse {
 public:
  PrefixUse() = default;  // takes and leaves nothing
  // The cache outlives it.
  PrefixUse(PrefixCache& cache, std::string principal) : cache_(&cache), principal_(std::move(principal)) {}

  // Before the prompts run: lets them begin behind what is known of them. What LibTorch throws passes through, with the plan as good as it
  // was.
  void Take(GeneratePlan& plan);
  uint64_t reused_tokens() const { return reused_tokens_; }

  // Leaves what a row has in its cache now: its prompt, and the generated tokens that have run. To fail at that harms nobody.
  void Leave(const GeneratePlan& plan, GeneratingRow& row);

 private:
  PrefixCache* cache_ = nullptr;
  std::string principal_;
  uint64_t reused_tokens_ = 0;
};

}  // namespace fluoroscope::generate
