// The family files' way to say which tensors of a checkpoint make up one weight.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/architecture.h"
#include "model/weight_arena.h"
#include "model/weights.h"
#include "residency/load_progress.h"
#include "tensor/checkpoint.h"

namespace fluoroscope::model {

// Reads tensors of one checkpoint, in one dtype, into one arena. Errors name the tensor and what was expected. Into an arena without memory
// it only checks that every tensor is there in its shape, and reads nothing.
class WeightReader {
 public:
  // `progress`, if there is one, hears of every tensor and is asked whether to go on (CANCELLED). `taken`, if there is one, gets the full
  // name of every tensor that was asked for.
  WeightReader(const tensor::Checkpoint& checkpoint, at::ScalarType dtype, WeightArena& arena, std::string prefix,
               residency::LoadProgress* progress = nullptr, std::set<std::string>* taken = nullptr)
      : checkpoint_(checkpoint), dtype_(dtype), arena_(arena), prefix_(std::move(prefix)), progress_(progress), taken_(taken) {}

  // One part of a fused matrix: rows [out] of the result.
  struct Part {
    std::string name;  // without ".weight"/".bias", after the prefix
    int64_t out;
  };

  bool Has(const std::string& name) const;
  std::string FullName(const std::string& name) const { return prefix_ + name; }

  // A tensor as it is stored.
  absl::StatusOr<at::Tensor> Tensor(const std::string& name, at::IntArrayRef shape) const;

  absl::StatusOr<NormWeights> Norm(const std::string& name, int64_t size, bool bias) const;

  // Parts stored as [out, in] each (torch.nn.Linear), stacked into one matrix.
  absl::StatusOr<Linear> FusedLinear(const std::vector<Part>& parts, int64_t in, bool bias) const;

  // One matrix stored as [in, out] (GPT-2's Conv1D), transposed.
  absl::StatusOr<Linear> TransposedLinear(const std::string& name, int64_t out, int64_t in, bool bias) const;

  // Whether a tensor has the dtype, shape and bytes of another, whose full name is `original`; INVALID_ARGUMENT if not. Without memory
  // only the shape is compared.
  absl::Status CheckCopy(const std::string& name, const std::string& original) const;

 private:
  absl::Status GoOn() const;
  // Into `out`, which has the tensor's shape.
  absl::Status Read(const std::string& name, const at::Tensor& out) const;

  const tensor::Checkpoint& checkpoint_;
  at::ScalarType dtype_;
  WeightArena& arena_;
  std::string prefix_;
  residency::LoadProgress* progress_;
  std::set<std::string>* taken_;
};

// The unembedding [vocabulary, d_model]: the top's "lm_head.weight", or for tied models `embed`, which is the body's `embed_name`. A tied
// model's file may have "lm_head.weight" too, if that is the same matrix: pickled checkpoints had both names, and converters keep them. If
// it is another matrix, tie_word_embeddings contradicts the file and nobody can know which one the model was trained with: transformers
// took the embedding up to version 4 and takes "lm_head.weight" with a warning since. So that is refused.
absl::StatusOr<Linear> ReadUnembedding(const Architecture& arch, const at::Tensor& embed, const WeightReader& body,
                                       const std::string& embed_name, const WeightReader& top);

}  // namespace fluoroscope::model
