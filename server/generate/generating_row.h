// One continuation on its way: its tokens so far, its keys and values, and what it still has to do.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "generate/kv_cache.h"
#include "generate/plan.h"
#include "generate/sampler.h"
#include "generate/text_stream.h"
#include "run/result_writer.h"

namespace fluoroscope::generate {

// Belongs to a GenerateRun, which takes it into the model's DecodePool; used on the executor's thread. What LibTorch throws passes through.
class GeneratingRow {
 public:
  // The references outlive it. `cache` has the prompt's positions; `kept` is what the prompts' run kept, for edits that read it.
  GeneratingRow(const GeneratePlan& plan, const ContinuationPlan& continuation, uint32_t sample, KvCache cache,
                const std::vector<at::Tensor>& kept, run::ResultWriter& out);

  // Takes the next token from the logits behind the last one: f32 [vocabulary], contiguous, on the CPU, its own to write into; and their
  // log-softmax. When it throws, nothing has happened. Logits that are no numbers end the row with a failure.
  void Accept(at::Tensor logits, const at::Tensor& log_probabilities);
  const absl::Status& failure() const { return failure_; }
  bool finished() const { return finished_; }
  uint32_t generated() const { return tokens_; }

  // The token that runs next is the last of these, at this position.
  const run::RowPlan& row() const { return row_; }
  int64_t position() const { return row_.length() - 1; }

  const ContinuationPlan& continuation() const { return continuation_; }
  const std::vector<run::EditPlan>& edits() const { return continuation_.edits; }
  const std::vector<run::CapturePlan>& captures() const { return continuation_.captures; }
  const std::vector<at::Tensor>& kept() const { return kept_; }
  KvCache& cache() { return cache_; }
  run::ResultWriter& out() const { return out_; }

 private:
  void Take(api::GeneratedToken token);

  const GeneratePlan& plan_;
  const ContinuationPlan& continuation_;
  KvCache cache_;
  const std::vector<at::Tensor>& kept_;
  run::ResultWriter& out_;
  run::RowPlan row_;  // ids, and what results are labelled with
  Sampler sampler_;
  TextStream text_;
  uint32_t tokens_ = 0;  // generated
  bool finished_ = false;
  absl::Status failure_;
};

}  // namespace fluoroscope::generate
