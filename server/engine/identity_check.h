// The model watches itself: equations between sites that must hold, checked at load and on a timer, and exported as gauges.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "run/forward_run.h"
#include "sched/work.h"

namespace fluoroscope::engine {

// The largest relative errors over all layers and token vectors: |difference|_2 / |value|_2 of each token's vector, never divided by a
// maximum over positions. NaN where a value is not a number.
struct IdentityErrors {
  double residual = 0;     // resid_pre + attn_out + mlp_out = resid_post
  double attention = 0;    // pattern @ v = z, with z from the fused kernel
  double pattern_sum = 0;  // rows of pattern sum to 1
  double logits = 0;       // final norm + unembedding = logits
};

// The largest error allowed in a model of this dtype.
double IdentityTolerance(at::ScalarType dtype);

// Which sites must not be served, and why, given these errors.
std::map<model::Site, std::string> SitesRefusedFor(const IdentityErrors& errors, at::ScalarType dtype);

// A forward of a short fixed prompt, followed by the comparison, layer by layer. `done` is called once, on the executor's thread; the check
// no longer holds the model then.
class IdentityCheck final : public sched::Work {
 public:
  using Done = std::function<void(absl::StatusOr<IdentityErrors>)>;
  static absl::StatusOr<std::shared_ptr<IdentityCheck>> Create(std::shared_ptr<const LoadedModel> model, obs::Metrics& metrics, Done done);

  Progress Step() override;
  void Abort(absl::Status why) override;

  uint64_t peak_bytes() const { return peak_bytes_; }

 private:
  class Collector;
  IdentityCheck() = default;
  void CompareLayer(int64_t layer);
  void CompareLogits();
  void Finish(absl::StatusOr<IdentityErrors> result);

  std::shared_ptr<const LoadedModel> model_;
  Done done_;
  std::shared_ptr<Collector> collector_;
  std::shared_ptr<run::ForwardRun> forward_;
  IdentityErrors errors_;
  int64_t next_layer_ = 0;
  uint64_t peak_bytes_ = 0;
};

}  // namespace fluoroscope::engine
