#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>

#include "base/status_macros.h"
#include "config/config.h"
#include "engine/engine.h"
#include "engine/generate_service.h"
#include "engine/grid_work.h"
#include "engine/handle_service.h"
#include "engine/job_work.h"
#include "engine/load_model.h"
#include "engine/loaded_model.h"
#include "engine/model_service.h"
#include "engine/one_call.h"
#include "engine/plan_builder.h"
#include "engine/self_check.h"
#include "engine/status.h"
#include "engine/task_thread.h"
#include "engine/weight_slice.h"
#include "engine/work_info.h"
#include "obs/metrics.h"
#include "run/forward_run.h"
#include "sched/executor.h"
#include "tensor/compute_threads.h"
#include "tensor/counting_allocator.h"
#include "tensor/device.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

// Requests wait here for a moment only, cancelled ones too until their turn comes; the executor's queue is the one that is meant to be
// full.
size_t PrepareQueue(const config::ServerConfig& config) { return std::max<size_t>(64, config.limits.max_queue); }

// Each of its parts guards its own state. Members are in the order in which they may use each other.
class EngineImpl final : public Engine {
 public:
  EngineImpl(const config::ServerConfig& config, obs::Metrics& metrics, std::shared_ptr<const api::GridCodec> codec)
      : config_(config),
        metrics_(metrics),
        models_({config_, metrics_, executor_,
                 [this](auto call, auto task, auto refuse) { Post(std::move(call), std::move(task), std::move(refuse)); }}),
        handles_(config, executor_, metrics,
                 {.find = [this](const std::string& name) { return Find(name); },
                  .prepare = [this](auto call, auto sink, auto plan) { PrepareInto(std::move(call), std::move(sink), std::move(plan)); },
                  .submit = [this](auto work, uint64_t bytes, double flops, const auto& call,
                                   const auto& sink) { Submit(std::move(work), bytes, flops, call, sink); }}),
        generations_(config_, executor_, metrics),
        runner_({[this](const std::string& name) { return Find(name); }, config_, metrics_, std::move(codec), executor_, prepare_}),
        executor_(ExecutorOptionsOf(config, [this](uint64_t bytes) { generations_.GiveBack(bytes); }), metrics),
        prepare_(PrepareQueue(config)) {}

  ~EngineImpl() override {
    timer_.request_stop();
    if (timer_.joinable()) timer_.join();
    models_.Stop();
    if (jobs_ != nullptr) jobs_->Close();  // it starts nothing any more
    prepare_.Stop();
  }

  absl::Status Start(at::Device device) {
    models_.BecomeAlone();
    // First, because it takes the directory's lock: a directory in use is found out before models are loaded. Nothing runs before Begin.
    FS_ASSIGN_OR_RETURN(jobs_, OpenJobs(config_.jobs, runner_, metrics_));
    FS_RETURN_IF_ERROR(OnExecutor([this] {
      at::set_num_threads(static_cast<int>(config_.threads));
      tensor::PlaceComputeThreads();
      return absl::OkStatus();
    }));
    FS_RETURN_IF_ERROR(models_.Start(device));
    jobs_->Begin();
    timer_ = std::jthread([this](std::stop_token stop) { Tick(stop); });
    return absl::OkStatus();
  }

  api::Models& models() override { return models_; }

  absl::StatusOr<api::ModelDetails> GetModel(const std::string& name) const override {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(name));
    return model->Details();
  }

  void Tokenize(const std::string& name, std::vector<api::Prompt> prompts, api::CallContext call,
                Callback<std::vector<api::RowInfo>> done) override {
    Prepare<std::vector<api::RowInfo>>(
        std::move(call), std::move(done), [this, name, prompts = std::move(prompts)]() -> absl::StatusOr<std::vector<api::RowInfo>> {
          FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(name));
          std::vector<api::RowInfo> rows;
          for (size_t i = 0; i < prompts.size(); ++i) {
            FS_ASSIGN_OR_RETURN(api::RowInfo row, ResolvePrompt(*model, prompts[i], "prompts[" + std::to_string(i) + "]"));
            rows.push_back(std::move(row));
          }
          return rows;
        });
  }

  void Detokenize(const std::string& name, std::vector<api::TokenIds> rows, bool skip_special_tokens, api::CallContext call,
                  Callback<std::vector<std::string>> done) override {
    Prepare<std::vector<std::string>>(
        std::move(call), std::move(done),
        [this, name, rows = std::move(rows), skip_special_tokens]() -> absl::StatusOr<std::vector<std::string>> {
          FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(name));
          if (model->tokenizer == nullptr) return absl::FailedPreconditionError(name + " has no tokenizer.json");
          std::vector<std::string> texts;
          for (const api::TokenIds& row : rows) {
            FS_ASSIGN_OR_RETURN(std::string text, model->tokenizer->Decode(row, skip_special_tokens));
            texts.push_back(std::move(text));
          }
          return texts;
        });
  }

  absl::StatusOr<std::vector<api::WeightInfo>> ListWeights(const std::string& name) const override {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(name));
    return ListWeightsOf(*model);
  }

  void ReadWeights(api::ReadWeightsRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitRead);
  }

  void Forward(api::ForwardRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitForward);
  }

  void Estimate(api::ForwardRequest request, api::CallContext call, Callback<api::Estimate> done) override {
    Prepare<api::Estimate>(call, std::move(done), [this, call, request = std::move(request)]() -> absl::StatusOr<api::Estimate> {
      FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(request.model));
      FS_ASSIGN_OR_RETURN(const BuiltPlan built, BuildPlan(*model, request, config_.limits, handles_.Of(call)));
      api::Estimate estimate;
      estimate.peak_bytes = built.cost.peak_bytes;
      estimate.reply_bytes = built.cost.reply_bytes;
      estimate.tokens = built.cost.tokens;
      estimate.flops = built.cost.flops;
      estimate.waves = static_cast<uint32_t>(built.plan.waves.size());
      estimate.budget_bytes = config_.memory_bytes;
      return estimate;
    });
  }

  void Generate(api::GenerateRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitGenerate);
  }

  void EstimateGenerate(api::GenerateRequest request, api::CallContext call, Callback<api::Estimate> done) override {
    Prepare<api::Estimate>(call, std::move(done), [this, call, request = std::move(request)]() -> absl::StatusOr<api::Estimate> {
      FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(request.model));
      return generations_.Estimate(model, request, handles_.Of(call));
    });
  }

  void Sweep(api::SweepRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitGrid<api::SweepRequest>);
  }

  void EstimateSweep(api::SweepRequest request, api::CallContext call, Callback<api::SweepCost> done) override {
    EstimateGrid(std::move(request), std::move(call), std::move(done));
  }

  void PathPatch(api::PathRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitGrid<api::PathRequest>);
  }

  void EstimatePathPatch(api::PathRequest request, api::CallContext call, Callback<api::SweepCost> done) override {
    EstimateGrid(std::move(request), std::move(call), std::move(done));
  }

  void Attribute(api::AttributionRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitGrid<api::AttributionRequest>);
  }

  void AttributeEdges(api::EdgesRequest request, api::CallContext call, std::shared_ptr<api::SweepSink> sink) override {
    PrepareRun(std::move(request), std::move(call), std::move(sink), &EngineImpl::SubmitGrid<api::EdgesRequest>);
  }

  api::Handles& handles() override { return handles_; }

  jobs::Jobs& jobs() override { return *jobs_; }

  void Poke() override {
    models_.CancelUnwanted();  // first: a load may wait for its check, which the executor ends
    executor_.Poke();
  }

  api::ServerStatus Status() const override { return StatusOf(executor_, config_.memory_bytes, models_.budget()); }

  bool Healthy() const override { return executor_.Healthy(); }

  void Drain(std::chrono::milliseconds grace) override {
    draining_ = true;
    timer_.request_stop();
    models_.Stop();
    jobs_->Suspend();
    prepare_.Stop();  // what was accepted reaches the executor before it drains
    executor_.Drain(grace);
    jobs_->Close();
  }

 private:
  absl::Status OnExecutor(std::function<absl::Status()> call) {
    auto work = std::make_shared<OneCall>(std::move(call));
    std::future<absl::Status> result = work->result();
    executor_.Submit(std::move(work), OwnWork("start", 0));
    return result.get();
  }

  absl::StatusOr<std::shared_ptr<LoadedModel>> Find(const std::string& name) const { return models_.Find(name); }

  static absl::Status StillWanted(const api::CallContext& call) {
    if (call.cancel.cancelled()) return absl::CancelledError("the client went away");
    if (std::chrono::steady_clock::now() >= call.deadline)
      return absl::DeadlineExceededError("the deadline passed while the request waited");
    return absl::OkStatus();
  }

  // Called with the refusal when a call cannot even be queued.
  void RefuseBusy(const std::function<void(absl::Status)>& refuse) {
    if (draining_) {
      metrics_.CountRejection(obs::Rejection::kDraining);
      return refuse(absl::UnavailableError("the server is shutting down"));
    }
    metrics_.CountRejection(obs::Rejection::kQueueFull);
    refuse(absl::ResourceExhaustedError("the server's prepare queue is full (" + std::to_string(PrepareQueue(config_)) +
                                        " requests); try again later"));
  }

  // Has `task` done on the prepare thread, if the call is still wanted by then, or `refuse` called.
  void Post(api::CallContext call, std::function<void()> task, std::function<void(absl::Status)> refuse) {
    const bool posted = prepare_.Post([call = std::move(call), task = std::move(task), refuse] {
      absl::Status wanted = StillWanted(call);
      wanted.ok() ? task() : refuse(std::move(wanted));
    });
    if (!posted) RefuseBusy(refuse);
  }

  template <typename T>
  void Prepare(api::CallContext call, Callback<T> done, std::function<absl::StatusOr<T>()> compute) {
    Post(
        std::move(call), [done, compute = std::move(compute)] { done(tensor::GuardTorch(compute)); }, done);
  }

  // Has a run planned and submitted on the prepare thread; whatever stands in the way reaches the sink.
  template <typename Request, typename Sink>
  void PrepareRun(Request request, api::CallContext call, std::shared_ptr<Sink> sink,
                  absl::Status (EngineImpl::*submit)(const Request&, const api::CallContext&, const std::shared_ptr<Sink>&,
                                                     std::chrono::steady_clock::time_point)) {
    const auto arrived = std::chrono::steady_clock::now();
    PrepareInto(call, sink, [this, request = std::move(request), call, sink, arrived, submit] {
      return (this->*submit)(request, call, sink, arrived);
    });
  }

  template <typename Sink>
  void PrepareInto(api::CallContext call, std::shared_ptr<Sink> sink, std::function<absl::Status()> plan) {
    Post(
        std::move(call),
        [sink, plan = std::move(plan)] {
          if (absl::Status status = tensor::GuardTorch(plan); !status.ok()) sink->Finish(std::move(status));
        },
        [sink](absl::Status status) { sink->Finish(std::move(status)); });
  }

  // Queues a run that is planned.
  template <typename Run, typename Sink>
  void Submit(std::shared_ptr<Run> run, uint64_t peak_bytes, double flops, const api::CallContext& call,
              const std::shared_ptr<Sink>& sink) {
    sink->OnDrain([this, work = std::weak_ptr<Run>(run)] {
      const auto alive = work.lock();
      if (alive == nullptr) return;
      if constexpr (requires { alive->OnDrained(); }) alive->OnDrained();
      executor_.Resume(alive.get());
    });
    executor_.Submit(std::move(run), WorkInfoOf(call, peak_bytes, flops));
  }

  absl::Status SubmitRead(const api::ReadWeightsRequest& request, const api::CallContext& call,
                          const std::shared_ptr<api::ForwardSink>& sink, std::chrono::steady_clock::time_point) {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(request.model));
    FS_ASSIGN_OR_RETURN(WeightSlice slice, ResolveWeightSlice(*model, request));
    api::ForwardHeader header;
    header.provenance = ProvenanceOf(*model);
    header.provenance.plan_sha256 = slice.hash;
    const uint64_t peak_bytes = slice.peak_bytes;
    Submit(ReadSlice(std::move(slice), model->model, std::move(header), sink), peak_bytes, /*flops=*/0, call, sink);
    return absl::OkStatus();
  }

  absl::Status SubmitForward(const api::ForwardRequest& request, const api::CallContext& call,
                             const std::shared_ptr<api::ForwardSink>& sink, std::chrono::steady_clock::time_point arrived) {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(request.model));
    FS_ASSIGN_OR_RETURN(BuiltPlan built, BuildPlan(*model, request, config_.limits, handles_.Of(call)));
    FS_ASSIGN_OR_RETURN(std::unique_ptr<run::CaptureKeeper> keeper, handles_.KeeperFor(built, *model, call));
    api::ForwardHeader header;
    header.rows = std::move(built.rows);
    header.provenance = ProvenanceOf(*model);
    header.provenance.attention = built.attention;
    header.provenance.plan_sha256 = built.hash;
    header.provenance.isolated = request.isolated;
    Submit(std::make_shared<run::ForwardRun>(std::move(built.plan), std::move(header), sink, metrics_, arrived, model->batching,
                                             std::move(keeper)),
           built.cost.peak_bytes - built.cost.handle_bytes, built.cost.flops, call, sink);
    return absl::OkStatus();
  }

  absl::Status SubmitGenerate(const api::GenerateRequest& request, const api::CallContext& call,
                              const std::shared_ptr<api::ForwardSink>& sink, std::chrono::steady_clock::time_point arrived) {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(request.model));
    FS_ASSIGN_OR_RETURN(PlannedGeneration planned, generations_.Plan(model, request, handles_.Of(call), call, sink, arrived));
    Submit(std::move(planned.run), planned.peak_bytes, planned.flops, call, sink);
    return absl::OkStatus();
  }

  template <typename Request>
  void EstimateGrid(Request request, api::CallContext call, Callback<api::SweepCost> done) {
    Prepare<api::SweepCost>(call, std::move(done), [this, call, request = std::move(request)]() -> absl::StatusOr<api::SweepCost> {
      FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(ModelOf(request)));
      FS_ASSIGN_OR_RETURN(const GridPlan plan, PlanOf(*model, request, {config_, handles_.Of(call)}));
      return plan.header.cost;
    });
  }

  template <typename Request>
  absl::Status SubmitGrid(const Request& request, const api::CallContext& call, const std::shared_ptr<api::SweepSink>& sink,
                          std::chrono::steady_clock::time_point arrived) {
    FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, Find(ModelOf(request)));
    FS_ASSIGN_OR_RETURN(GridWork grid, WorkOf(*model, request, {config_, handles_.Of(call)}, metrics_, {sink, arrived}));
    Submit(std::move(grid.work), grid.peak_bytes, grid.flops, call, sink);
    return absl::OkStatus();
  }

  api::Provenance ProvenanceOf(const LoadedModel& model) const { return engine::ProvenanceOf(model, config_.threads); }

  // The timer thread: memory gauges and expiry of handles every second, identity checks every self_check_seconds.
  void Tick(std::stop_token stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    auto next_check = std::chrono::steady_clock::now() + std::chrono::seconds(config_.self_check_seconds);
    while (!stop.stop_requested()) {
      const tensor::AccountStats memory = tensor::Stats().work;
      metrics_.SetDeviceMemory(config_.device, memory.live_bytes, memory.peak_bytes);
      metrics_.SetWeightsMemory(models_.budget().charged_bytes(), models_.budget().limit_bytes());
      handles_.Expire();
      wake.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; });
      if (stop.stop_requested() || std::chrono::steady_clock::now() < next_check) continue;
      next_check += std::chrono::seconds(config_.self_check_seconds);
      for (const std::shared_ptr<LoadedModel>& model : models_.Loaded()) {
        // A check that cannot run now (full queue, draining) runs next time; the gauges keep their last values.
        (void)SubmitCheck(model, executor_, metrics_, {}, [](absl::Status) {});
      }
    }
  }

  const config::ServerConfig config_;
  obs::Metrics& metrics_;
  ModelService models_;
  HandleService handles_;             // before the executor: works that it lets go keep handles
  GenerateService generations_;       // before the executor: works that it lets go have taken and left prefixes there
  JobWork runner_;                    // uses what is below only while jobs_ starts jobs
  std::unique_ptr<jobs::Jobs> jobs_;  // outlives what still ends jobs: the executor and the prepare thread
  sched::Executor executor_;
  TaskThread prepare_;
  std::atomic<bool> draining_ = false;
  std::jthread timer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const config::ServerConfig& config, obs::Metrics& metrics,
                                                       std::shared_ptr<const api::GridCodec> codec) {
  // The CUDA back end registers itself only before the first use of LibTorch.
  FS_ASSIGN_OR_RETURN(const at::Device device, tensor::OpenDevice(config.device));
  tensor::InstallCountingAllocator();
  tensor::SetCap(config.memory_bytes);
  at::set_num_threads(static_cast<int>(config.threads));
  auto engine = std::make_unique<EngineImpl>(config, metrics, std::move(codec));
  FS_RETURN_IF_ERROR(engine->Start(device));
  return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace fluoroscope::engine
