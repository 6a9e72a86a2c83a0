// What the engine does with handles: uploads, reading in slices, leases, and what runs keep.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "api/handles.h"
#include "config/config.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "engine/plan_builder.h"
#include "run/result_writer.h"
#include "sched/executor.h"
#include "sched/work.h"
#include "store/handle_store.h"

namespace fluoroscope::engine {

// Owns the store. Every method may be called from any thread; its memory is charged to the executor's budget.
class HandleService final : public api::Handles {
 public:
  // What it needs of the engine, which outlives it.
  struct Engine {
    std::function<absl::StatusOr<std::shared_ptr<LoadedModel>>(const std::string&)> find;
    // Has something planned on the prepare thread; what stands in its way reaches the sink.
    std::function<void(api::CallContext, std::shared_ptr<api::ForwardSink>, std::function<absl::Status()>)> prepare;
    std::function<void(std::shared_ptr<sched::Work>, uint64_t peak_bytes, double flops, const api::CallContext&,
                       const std::shared_ptr<api::ForwardSink>&)>
        submit;
  };
  HandleService(const config::ServerConfig& config, sched::Executor& executor, obs::Metrics& metrics, Engine engine);

  absl::StatusOr<std::unique_ptr<api::Upload>> Put(const api::PutHeader& header, const api::CallContext& call) override;
  void Get(api::HandleSlice slice, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) override;
  api::HandlePage List(const std::string& after, const api::CallContext& call) override { return store_.List(call.principal, after); }
  absl::StatusOr<api::Handle> Renew(const std::string& id, uint32_t ttl_seconds, const api::CallContext& call) override {
    return store_.Renew(id, call.principal, ttl_seconds);
  }
  absl::Status Delete(const std::string& id, const api::CallContext& call) override { return store_.Delete(id, call.principal); }

  // The handles that a request of this principal may read.
  RequestHandles Of(const api::CallContext& call) { return {&store_, call.principal}; }

  // For the captures of a run that are to be kept; null when there are none. Takes their bytes (BuiltPlan::cost.handle_bytes) out of the
  // budget, so they are not to be charged to the run as well. INVALID_ARGUMENT for a time to live that is too long, RESOURCE_EXHAUSTED over
  // a limit.
  absl::StatusOr<std::unique_ptr<run::CaptureKeeper>> KeeperFor(const BuiltPlan& built, const LoadedModel& model,
                                                                const api::CallContext& call);

  // To be called now and then: gives back what expired handles hold.
  void Expire() { store_.Expire(); }

 private:
  absl::Status SubmitGet(const api::HandleSlice& slice, const api::CallContext& call, const std::shared_ptr<api::ForwardSink>& sink);

  const uint32_t threads_;
  const Engine engine_;
  store::HandleStore store_;
};

}  // namespace fluoroscope::engine
