// A model in memory: its architecture, weights, and what identifies them.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/architecture.h"
#include "model/weights.h"
#include "residency/load_progress.h"

namespace fluoroscope::model {

// Immutable after Load, so that any thread may read it; shared by the runs that use it.
struct Model {
  Architecture arch;
  Weights weights;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  // cos and sin of every position's angles, [context, d_head / 2] each in `dtype`; undefined without rotary positions.
  at::Tensor rotary_cos, rotary_sin;
  std::string weights_sha256;
  std::string revision;  // empty when the checkpoint does not say

  struct Options {
    std::string dtype;  // "" keeps the file's
    at::Device device = at::kCPU;
    residency::LoadProgress* progress = nullptr;  // hears how far it is, and may cancel it
  };

  // Reads config.json and the weights of a Hugging Face directory. A bad checkpoint gives a status that names the field or tensor: one that
  // lacks a tensor, or has one that the configuration does not ask for (unread_tensors.h).
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& directory, const Options& options);

  // What Load would hold, from config.json and the weights' headers alone: bytes of all tensors as they would lie in memory. Fails as Load
  // would, but for what only reading shows.
  static absl::StatusOr<uint64_t> Measure(const std::string& directory, const Options& options);
};

}  // namespace fluoroscope::model
