#include "engine/model_gauges.h"

#include "obs/metrics.h"

namespace fluoroscope::engine {

void ModelGauges::SetLoaded(const std::string& weights_sha256, uint64_t weight_bytes, double load_seconds) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  weights_sha256_ = weights_sha256;
  metrics_.SetModelLoaded(model_, weights_sha256, weight_bytes, load_seconds);
}

void ModelGauges::SetIdentityError(const char* identity, double relative_error) {
  const std::lock_guard lock(mutex_);
  if (!ended_) metrics_.SetIdentityError(model_, identity, relative_error);
}

void ModelGauges::End() {
  const std::lock_guard lock(mutex_);
  if (!ended_) metrics_.ForgetModel(model_, weights_sha256_);
  ended_ = true;
}

}  // namespace fluoroscope::engine
