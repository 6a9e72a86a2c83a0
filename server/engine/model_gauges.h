// The gauges of one loaded model: they are there as long as it is, and no later check brings them back.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// Owns a model's label values in the registry. Safe from any thread: an identity check may end while its model is unloaded.
class ModelGauges {
 public:
  // `metrics` outlives it.
  ModelGauges(obs::Metrics& metrics, std::string model) : metrics_(metrics), model_(std::move(model)) {}
  ~ModelGauges() { End(); }

  void SetLoaded(const std::string& weights_sha256, uint64_t weight_bytes, double load_seconds);
  void SetIdentityError(const char* identity, double relative_error);

  // Removes them for good; what is set later is dropped.
  void End();

 private:
  obs::Metrics& metrics_;
  const std::string model_;
  std::mutex mutex_;
  bool ended_ = false;          // guarded by mutex_
  std::string weights_sha256_;  // guarded by mutex_
};

}  // namespace fluoroscope::engine
