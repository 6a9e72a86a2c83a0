// A model that the server offers: weights, tokenizer, and what its identity checks last said.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/results.h"
#include "config/config.h"
#include "engine/model_gauges.h"
#include "model/model.h"
#include "model/sites.h"
#include "residency/model_table.h"
#include "tokenizer/tokenizer.h"

namespace fluoroscope::generate {
class DecodePool;
}
namespace fluoroscope::run {
class BatchPool;
}

namespace fluoroscope::sweep {
struct HalfModel;
}

namespace fluoroscope::engine {

// Which sites may not be served because an identity that involves them failed: site -> why. Safe from any thread.
class RefusedSites {
 public:
  void Set(std::map<model::Site, std::string> refused);
  // Empty when the site may be served.
  std::string Why(model::Site site) const;

 private:
  mutable std::mutex mutex_;
  std::map<model::Site, std::string> refused_;
};

// Immutable but for `refused`, `gauges` and what the executor's thread owns. Shared by the engine and the runs that use it; runs may also
// hold `model` alone.
struct LoadedModel final : residency::Resident {
  std::string name;
  std::shared_ptr<const model::Model> model;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;  // null when the directory has no tokenizer.json
  std::string device;
  RefusedSites refused;
  std::shared_ptr<run::BatchPool> batching;        // of forward runs; the executor's thread only
  std::shared_ptr<generate::DecodePool> decoding;  // of continuations; the executor's thread only
  std::shared_ptr<sweep::HalfModel> half;          // the executor's thread only
  std::optional<api::ChatTemplate> chat_template;
  std::vector<int64_t> end_of_sequence;
  std::unique_ptr<ModelGauges> gauges;
  std::weak_ptr<const void> held;  // expires when the weights are gone

  std::weak_ptr<const void> memory() const override { return held; }
  api::ModelInfo Info() const;
  api::ModelDetails Details() const;
};

}  // namespace fluoroscope::engine
