// The family files' way to say which tensors of a checkpoint make up one weight.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/weights.h"
#include "residency/load_progress.h"
#include "tensor/checkpoint.h"

namespace fluoroscope::model {

// Reads tensors of one checkpoint, in one dtype, onto one device. Errors name the tensor and what was expected. On the meta device it only
// checks that every tensor is there in its shape, and reads nothing.
class WeightReader {
 public:
  // `progress`, if there is one, hears of every tensor and is asked whether to go on (CANCELLED).
  WeightReader(const tensor::Checkpoint& checkpoint, at::ScalarType dtype, at::Device device, std::string prefix,
               residency::LoadProgress* progress = nullptr)
      : checkpoint_(checkpoint), dtype_(dtype), device_(device), prefix_(std::move(prefix)), progress_(progress) {}

  // One part of a fused matrix: rows [out] of the result.
  struct Part {
    std::string name;  // without ".weight"/".bias", after the prefix
    int64_t out;
  };

  bool Has(const std::string& name) const;

  // A tensor as it is stored.
  absl::StatusOr<at::Tensor> Tensor(const std::string& name, at::IntArrayRef shape) const;

  absl::StatusOr<NormWeights> Norm(const std::string& name, int64_t size, bool bias) const;

  // Parts stored as [out, in] each (torch.nn.Linear), stacked into one matrix.
  absl::StatusOr<Linear> FusedLinear(const std::vector<Part>& parts, int64_t in, bool bias) const;

  // One matrix stored as [in, out] (GPT-2's Conv1D), transposed.
  absl::StatusOr<Linear> TransposedLinear(const std::string& name, int64_t out, int64_t in, bool bias) const;

 private:
  // Into `out`, which has the tensor's shape.
  absl::Status Read(const std::string& name, const at::Tensor& out) const;
  at::Device Host() const { return device_.is_meta() ? device_ : at::Device(at::kCPU); }

  const tensor::Checkpoint& checkpoint_;
  at::ScalarType dtype_;
  at::Device device_;
  std::string prefix_;
  residency::LoadProgress* progress_;
};

}  // namespace fluoroscope::model
