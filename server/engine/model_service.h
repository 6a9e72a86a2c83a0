// The models of the engine: which are loaded, the thread that loads them, and what clients may do about it.
#pragma once

#include <ATen/ATen.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/models.h"
#include "config/config.h"
#include "engine/loaded_model.h"
#include "engine/task_thread.h"
#include "residency/model_store.h"
#include "residency/model_table.h"
#include "residency/weight_budget.h"
#include "sched/executor.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// Owns the table of models, the budget for their weights and the loader thread, which loads one model after the other: it reads, hashes and
// converts beside the executor, without OpenMP threads of its own, and has the executor check the identities as ordinary work. What holds a
// model beyond the table are shared pointers: plans, pools and replies of requests; whoever drops the last one gives the memory back.
// Methods may be called from any thread but where they say otherwise.
class ModelService final : public api::Models {
 public:
  // What it needs of the engine, which outlives it; the executor only until Stop.
  struct Engine {
    const config::ServerConfig& config;
    obs::Metrics& metrics;
    sched::Executor& executor;
    // Has something done on the prepare thread, or `refuse` called with what stands in its way.
    std::function<void(api::CallContext, std::function<void()> task, std::function<void(absl::Status)> refuse)> prepare;
  };
  explicit ModelService(Engine engine);
  ~ModelService() override { Stop(); }

  // Before anything is loaded: afterwards LibTorch's number of threads has to be set again on the executor's thread (ComputeAlone).
  void BecomeAlone();

  // Loads the models of the configuration, but for those on request. Waits; once, before serving.
  absl::Status Start(at::Device device);

  // No more loads; cancels what is loading (UNAVAILABLE for those who wait) and joins the loader. The executor must still run.
  void Stop();

  // NOT_FOUND for a model that is not loaded, UNAVAILABLE while it is being loaded.
  absl::StatusOr<std::shared_ptr<LoadedModel>> Find(const std::string& name) const;
  std::vector<std::shared_ptr<LoadedModel>> Loaded() const;
  const residency::WeightBudget& budget() const { return *budget_; }

  // A call's cancel token was set: a load that nobody waits for any more ends at its next tensor. Cheap.
  void CancelUnwanted() { table_.CancelUnwanted(); }

  api::ModelList List() const override;
  std::optional<bool> Serving(const std::string& name) const override;
  void OnChange(std::function<void()> changed) override;
  void Load(api::LoadModelRequest request, api::CallContext call, Callback<api::LoadModelReply> done) override;
  void Unload(std::string name, api::CallContext call, Callback<api::UnloadModelReply> done) override;

 private:
  absl::Status CheckAllowed() const;
  absl::StatusOr<residency::Source> SourceOf(const std::string& name) const;
  void Request(const residency::Source& source, const std::string& dtype, bool at_start, Callback<api::LoadModelReply> done,
               const CancelToken& gone = {});
  absl::StatusOr<api::UnloadModelReply> UnloadNow(const std::string& name);
  // On the loader thread.
  void LoadNow(const residency::Source& source, bool at_start, residency::LoadProgress& progress);
  absl::StatusOr<std::shared_ptr<LoadedModel>> TryLoad(const residency::Source& source, bool at_start, residency::LoadProgress& progress);
  absl::StatusOr<std::shared_ptr<const residency::WeightBudget::Charge>> Charge(const residency::Source& source, uint64_t bytes,
                                                                                bool at_start);
  void Changed() const;

  const Engine engine_;
  const residency::ModelStore store_;
  residency::ModelTable table_;
  const std::shared_ptr<residency::WeightBudget> budget_;
  at::Device device_ = at::kCPU;  // since Start
  std::atomic<bool> stopping_ = false;
  mutable std::mutex mutex_;
  std::function<void()> changed_;  // guarded by mutex_
  TaskThread loader_;              // last: uses all of the above
};

}  // namespace fluoroscope::engine
