// An engine without a model, for tests of the transport alone: it streams given bytes, honouring the sink's wish to pause, waits, fails or
// throws, as the request's model name says.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "jobs/jobs.h"
#include "obs/metrics.h"
#include "rpc/server.h"

namespace fluoroscope::rpc {

// Takes uploads of one f32 axis for any model and site and gives them one id, "0"; has no other handles. Model names: "throw" throws at the
// header, "throw_at_end" at the end, and the end of "cancelled" waits until the call is.
class FakeHandles final : public api::Handles {
 public:
  absl::StatusOr<std::unique_ptr<api::Upload>> Put(const api::PutHeader& header, const api::CallContext& call) override;
  void Get(api::HandleSlice, api::CallContext, std::shared_ptr<api::ForwardSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  api::HandlePage List(const std::string&, const api::CallContext&) override { return {}; }
  absl::StatusOr<api::Handle> Renew(const std::string&, uint32_t, const api::CallContext&) override {
    return absl::UnimplementedError("no model here");
  }
  absl::Status Delete(const std::string&, const api::CallContext&) override { return absl::UnimplementedError("no model here"); }

  std::atomic<int> uploads{0};    // under way
  std::atomic<int> finishing{0};  // uploads that wait at their end
  std::atomic<int> finished{0};   // that became handles
};

// Has one model, "stream", loaded; "other" can be loaded and unloaded.
class FakeModels final : public api::Models {
 public:
  api::ModelList List() const override;
  std::optional<bool> Serving(const std::string& name) const override;
  void OnChange(std::function<void()> changed) override { changed_ = std::move(changed); }
  void Load(api::LoadModelRequest request, api::CallContext call, Callback<api::LoadModelReply> done) override;
  void Unload(std::string name, api::CallContext call, Callback<api::UnloadModelReply> done) override;

  static api::ModelInfo InfoOf(const std::string& name);

 private:
  std::function<void()> changed_;
  std::atomic<bool> other_{false};
};

// Model names of Forward:
//   "stream:N:M"  header, N tensors of M bytes (byte i of a tensor is i mod 251), summary
//   "repeat:N:M"  the same, but all N tensors share one memory: nothing but the transport costs time
//   "hang"        a header, then nothing until the call is cancelled
//   "fail"        a header and a tensor, then INTERNAL "it broke"
//   "throw"       throws from Forward
//   "late_throw"  takes the sink, pushes a header, then throws
class StreamEngine final : public engine::Engine {
 public:
  StreamEngine() = default;
  ~StreamEngine() override;

  api::Models& models() override { return models_; }
  absl::StatusOr<api::ModelDetails> GetModel(const std::string& name) const override;
  void Tokenize(const std::string& model, std::vector<api::Prompt> prompts, api::CallContext call,
                Callback<std::vector<api::RowInfo>> done) override;
  void Detokenize(const std::string& model, std::vector<api::TokenIds> rows, bool skip_special_tokens, api::CallContext call,
                  Callback<std::vector<std::string>> done) override;
  absl::StatusOr<std::vector<api::WeightInfo>> ListWeights(const std::string&) const override {
    return absl::UnimplementedError("no model here");
  }
  void ReadWeights(api::ReadWeightsRequest, api::CallContext, std::shared_ptr<api::ForwardSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void Forward(api::ForwardRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) override;
  void Estimate(api::ForwardRequest request, api::CallContext call, Callback<api::Estimate> done) override;
  void Generate(api::GenerateRequest, api::CallContext, std::shared_ptr<api::ForwardSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void EstimateGenerate(api::GenerateRequest request, api::CallContext, Callback<api::Estimate> done) override {
    done(api::Estimate{.tokens = request.max_new_tokens});
  }
  void Sweep(api::SweepRequest, api::CallContext, std::shared_ptr<api::SweepSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void Attribute(api::AttributionRequest, api::CallContext, std::shared_ptr<api::SweepSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void AttributeEdges(api::EdgesRequest, api::CallContext, std::shared_ptr<api::SweepSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void EstimateSweep(api::SweepRequest, api::CallContext, Callback<api::SweepCost> done) override {
    done(absl::UnimplementedError("no model here"));
  }
  void PathPatch(api::PathRequest, api::CallContext, std::shared_ptr<api::SweepSink> sink) override {
    sink->Finish(absl::UnimplementedError("no model here"));
  }
  void EstimatePathPatch(api::PathRequest, api::CallContext, Callback<api::SweepCost> done) override {
    done(absl::UnimplementedError("no model here"));
  }
  api::Handles& handles() override { return handles_; }
  jobs::Jobs& jobs() override {
    static const std::unique_ptr<jobs::Jobs> none = jobs::NoJobs();
    return *none;
  }
  void Poke() override { ++pokes; }
  api::ServerStatus Status() const override {
    return {.admitted_bytes = 5, .budget_bytes = 9, .works = {{"0123abcd", true, api::Priority::kBatch, 1.5, 5, 2e9}, {"4567ef01"}}};
  }
  bool Healthy() const override { return true; }
  void Drain(std::chrono::milliseconds) override {}

  std::atomic<int> pokes{0};
  std::atomic<int> parked{0};          // times that Push answered false
  std::atomic<int> cancelled{0};       // runs that saw their cancel token
  std::atomic<int> ended{0};           // runs that are over
  std::atomic<int64_t> live_bytes{0};  // of tensors that somebody still holds
  std::atomic<int64_t> peak_bytes{0};
  std::string last_principal();
  FakeHandles& fake_handles() { return handles_; }
  api::Priority last_priority();

 private:
  void Stream(int count, size_t bytes, bool repeat, api::CallContext call, std::shared_ptr<api::ForwardSink> sink);
  api::Chunk MakeTensor(size_t bytes);
  void Run(std::function<void()> work);

  FakeHandles handles_;
  FakeModels models_;
  std::mutex mutex_;
  std::vector<std::thread> threads_;
  std::string last_principal_;
  api::Priority last_priority_ = api::Priority::kInteractive;
};

// The byte at `offset` of every tensor that StreamEngine sends.
inline std::byte PatternAt(size_t offset) { return static_cast<std::byte>(offset % 251); }

// A server on a free port of the loopback.
struct Loopback {
  explicit Loopback(config::Limits limits = {}, bool serve = true);
  std::string address() const;

  obs::Metrics metrics;
  StreamEngine engine;
  std::unique_ptr<Server> server;  // shut down before the engine dies
};

}  // namespace fluoroscope::rpc
