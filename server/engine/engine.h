// The façade: what the server can do, one method per RPC, in api/ types. Free of LibTorch and of protobuf.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/attribution.h"
#include "api/call.h"
#include "api/generate.h"
#include "api/grid_codec.h"
#include "api/handles.h"
#include "api/models.h"
#include "api/path.h"
#include "api/plan.h"
#include "api/results.h"
#include "api/status.h"
#include "api/sweep.h"
#include "api/weights.h"

namespace fluoroscope::config {
struct ServerConfig;
}
namespace fluoroscope::obs {
class Metrics;
}
namespace fluoroscope::jobs {
class Jobs;
}

namespace fluoroscope::engine {

// Owns the models, the loader and prepare threads and the device's executor. Every method may be called from any thread and returns at
// once; answers come through the callback or sink, on one of the engine's threads, exactly once per call.
class Engine {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  // Loads the models of the configuration, warms them up and checks their identities; then begins to resume what jobs are unfinished. Slow
  // (seconds); called once, before serving. `codec`: how jobs are kept.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const config::ServerConfig& config, obs::Metrics& metrics,
                                                        std::shared_ptr<const api::GridCodec> codec);

  virtual ~Engine() = default;

  // Which models there are; loading and unloading. Lives as long as the engine.
  virtual api::Models& models() = 0;
  virtual absl::StatusOr<api::ModelDetails> GetModel(const std::string& name) const = 0;
  virtual void Tokenize(const std::string& model, std::vector<api::Prompt> prompts, api::CallContext call,
                        Callback<std::vector<api::RowInfo>> done) = 0;
  virtual void Detokenize(const std::string& model, std::vector<api::TokenIds> rows, bool skip_special_tokens, api::CallContext call,
                          Callback<std::vector<std::string>> done) = 0;

  virtual absl::StatusOr<std::vector<api::WeightInfo>> ListWeights(const std::string& model) const = 0;
  // A header without rows, one tensor, a summary.
  virtual void ReadWeights(api::ReadWeightsRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) = 0;

  virtual void Forward(api::ForwardRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) = 0;
  virtual void Estimate(api::ForwardRequest request, api::CallContext call, Callback<api::Estimate> done) = 0;

  // Its parts are those of a Forward, and tokens.
  virtual void Generate(api::GenerateRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) = 0;
  virtual void EstimateGenerate(api::GenerateRequest request, api::CallContext call, Callback<api::Estimate> done) = 0;

  virtual void Sweep(api::SweepRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) = 0;
  virtual void EstimateSweep(api::SweepRequest request, api::CallContext call, Callback<api::SweepCost> done) = 0;

  // The sink gets a sweep's parts.
  virtual void PathPatch(api::PathRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) = 0;
  virtual void EstimatePathPatch(api::PathRequest request, api::CallContext call, Callback<api::SweepCost> done) = 0;

  // The sink gets a sweep's parts; the cells' values are scores.
  virtual void Attribute(api::AttributionRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) = 0;
  virtual void AttributeEdges(api::EdgesRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) = 0;

  // Activations that stay on the server. Lives as long as the engine.
  virtual api::Handles& handles() = 0;

  // Sweeps and path patching that outlive their call.
  virtual jobs::Jobs& jobs() = 0;

  // A call's cancel token was set: look at the tokens now, not after the next step. Quick; from any thread.
  virtual void Poke() {}

  // What is waiting and running at this moment.
  virtual api::ServerStatus Status() const = 0;

  // Liveness: false when the executor has not taken a step for a long while although it has work, or the device is lost.
  virtual bool Healthy() const = 0;

  // Refuses new calls with UNAVAILABLE, lets running work go on for `grace`, then cancels what is left; stops jobs at once, to be resumed
  // by the next process. Returns when all is finished.
  virtual void Drain(std::chrono::milliseconds grace) = 0;
};

}  // namespace fluoroscope::engine
