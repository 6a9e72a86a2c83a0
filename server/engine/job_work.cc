#include "engine/job_work.h"

#include <set>
#include <utility>

#include "base/status_macros.h"
#include "engine/grid_work.h"
#include "jobs/job_manager.h"
#include "jobs/job_store.h"
#include "sweep/sweep_run.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

// Beside its numbers, a message of cells takes about this much, in the store too.
constexpr uint64_t kBytesOfPiece = 64;

std::string NumbersOf(const api::Provenance& provenance) { return provenance.dtype + " on " + provenance.device; }

size_t CellsPerPair(const api::SweepHeader& header) {
  size_t cells = 1;
  for (const api::SweepAxisInfo& axis : header.axes) cells *= axis.labels.size();
  return cells;
}

absl::Status Differs(const char* what, const std::string& then, const std::string& now) {
  return absl::FailedPreconditionError(std::string("the job cannot be resumed: it was submitted with ") + what + " " + then +
                                       ", now it is " + now);
}

// A run's way into the store. Push and Finish are called as api::Sink says, from one thread at a time.
class JobSink final : public api::SweepSink {
 public:
  JobSink(std::shared_ptr<jobs::JobOutput> output, std::shared_ptr<const api::GridCodec> codec)
      : output_(std::move(output)), codec_(std::move(codec)) {}

  bool Push(api::SweepPart part) override {
    begun_ = true;
    if (std::holds_alternative<api::SweepHeader>(part)) return true;  // the job has had it since it was submitted
    std::string bytes = codec_->Encode(part);
    if (std::holds_alternative<api::SweepSummary>(part)) {
      summary_ = std::move(bytes);
    } else {
      const auto* cells = std::get_if<api::SweepCells>(&part);
      output_->Append({std::move(bytes), cells == nullptr ? 0 : cells->cells.size()});
    }
    return true;
  }

  void OnDrain(std::function<void()>) override {}

  void Finish(absl::Status status) override {
    // The queue was full: that is no fault of the job.
    if (!begun_ && absl::IsResourceExhausted(status)) status = absl::UnavailableError(std::string(status.message()));
    output_->End(std::move(status), std::move(summary_));
  }

 private:
  const std::shared_ptr<jobs::JobOutput> output_;
  const std::shared_ptr<const api::GridCodec> codec_;
  std::string summary_;
  bool begun_ = false;
};

}  // namespace

void JobWork::Plan(std::string kind, std::string request, api::CallContext call, std::function<void(absl::StatusOr<jobs::JobSpec>)> done) {
  const bool posted = parts_.prepare.Post([this, kind = std::move(kind), request = std::move(request), call, done] {
    if (call.cancel.cancelled()) return done(absl::CancelledError("the client went away"));
    done(tensor::GuardTorch([&] { return MakeSpec(kind, request, call.principal); }));
  });
  if (!posted) done(absl::UnavailableError("the server is shutting down, or its prepare queue is full; try again later"));
}

absl::StatusOr<jobs::JobSpec> JobWork::MakeSpec(const std::string& kind, const std::string& request, const std::string& principal) const {
  FS_ASSIGN_OR_RETURN(const api::GridRequest decoded, parts_.codec->DecodeRequest(kind, request));
  if (const auto* sweep = std::get_if<api::SweepRequest>(&decoded); sweep != nullptr && sweep->fast)
    return absl::InvalidArgumentError("precision: jobs are in the model's own numbers; a sweep that is no job can be fast");
  if (const auto* sweep = std::get_if<api::SweepRequest>(&decoded); sweep != nullptr)
    for (size_t i = 0; i < sweep->pairs.size(); ++i)
      if (!sweep->pairs[i].source_handles.empty())
        return absl::InvalidArgumentError(
            "pairs[" + std::to_string(i) +
            "].source_handles: a job outlives restarts of the server and handles do not, so a job takes values "
            "from prompts only; Patching.Sweep takes handles");
  const std::string name = std::visit([](const auto& grid) { return ModelOf(grid); }, decoded);
  FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, parts_.find(name));
  FS_ASSIGN_OR_RETURN(const GridPlan plan, std::visit([&](const auto& grid) { return PlanOf(*model, grid, {parts_.config}); }, decoded));
  const api::SweepHeader& header = plan.header;
  if (header.cost.peak_bytes > header.cost.budget_bytes)
    return absl::ResourceExhaustedError("the request needs " + std::to_string(header.cost.peak_bytes) + " bytes; this server's budget is " +
                                        std::to_string(header.cost.budget_bytes));
  jobs::JobSpec spec;
  spec.principal = principal;
  spec.kind = kind;
  spec.model = name;
  spec.request = request;
  spec.header = parts_.codec->Encode(header);
  spec.cells = header.clean.size() * CellsPerPair(header);
  spec.plan_sha256 = header.provenance.plan_sha256;
  spec.weights_sha256 = header.provenance.weights_sha256;
  spec.numbers = NumbersOf(header.provenance);
  // A step finishes some cells of each pair it is at; four to a message is few.
  spec.expected_bytes = spec.request.size() + spec.header.size() +
                        spec.cells * (sizeof(uint32_t) + sizeof(double) * header.metrics.size() + kBytesOfPiece / 4) +
                        header.clean.size() * (2 * sizeof(double) * header.metrics.size() + kBytesOfPiece);
  return spec;
}

void JobWork::Start(jobs::JobInfo job, std::vector<std::string> finished, std::shared_ptr<jobs::JobOutput> output) {
  CancelToken cancel;
  {
    const std::lock_guard lock(mutex_);
    started_.insert_or_assign(job.id, cancel);
  }
  const bool posted = parts_.prepare.Post([this, job = std::move(job), finished = std::move(finished), output, cancel] {
    if (cancel.cancelled()) return output->End(absl::CancelledError("stopped"), "");
    absl::Status status = tensor::GuardTorch([&] { return Submit(job, finished, output, cancel); });
    if (!status.ok()) output->End(std::move(status), "");
  });
  if (!posted) output->End(absl::UnavailableError("the prepare queue is full"), "");
}

absl::Status JobWork::Submit(const jobs::JobInfo& job, const std::vector<std::string>& finished,
                             const std::shared_ptr<jobs::JobOutput>& output, const CancelToken& cancel) const {
  const auto model = parts_.find(job.spec.model);
  if (absl::IsUnavailable(model.status())) return model.status();  // it is being loaded: to be tried again
  if (!model.ok()) return absl::FailedPreconditionError("the job cannot be resumed: " + std::string(model.status().message()));
  // Before anything is resolved: other weights may come with another tokenizer, and then the plan differs too.
  const std::string& weights = (*model)->model->weights_sha256;
  if (weights != job.spec.weights_sha256) return Differs("weights of SHA-256", job.spec.weights_sha256, weights);
  FS_ASSIGN_OR_RETURN(const api::GridRequest request, parts_.codec->DecodeRequest(job.spec.kind, job.spec.request));
  FS_ASSIGN_OR_RETURN(GridPlan plan, std::visit([&](const auto& grid) { return PlanOf(**model, grid, {parts_.config}); }, request));
  const api::Provenance& now = plan.header.provenance;
  if (now.plan_sha256 != job.spec.plan_sha256) return Differs("a plan of SHA-256", job.spec.plan_sha256, now.plan_sha256);
  if (NumbersOf(now) != job.spec.numbers) return Differs("numbers in", job.spec.numbers, NumbersOf(now));
  const size_t pairs = plan.header.clean.size();
  sweep::FinishedCells cells(pairs, CellsPerPair(plan.header));
  std::set<uint32_t> reported;
  for (const std::string& bytes : finished) {
    FS_ASSIGN_OR_RETURN(const api::GridCodec::Finished piece, parts_.codec->DecodeFinished(bytes));
    if (piece.reference) reported.insert(piece.pair);
    for (const uint32_t cell : piece.cells)
      if (!cells.Add(piece.pair, cell)) return absl::DataLossError("a kept piece of the job has cells that it cannot have");
  }
  const uint64_t peak_bytes = plan.header.cost.peak_bytes;
  const double flops = plan.header.cost.flops;
  const auto sink = std::make_shared<JobSink>(output, parts_.codec);
  auto run = std::make_shared<sweep::SweepRun>(plan.pieces(std::move(cells)), std::move(plan.header), std::move(plan.warnings), sink,
                                               parts_.metrics, std::chrono::steady_clock::now());
  run->Resume(std::move(reported));
  parts_.executor.Submit(std::move(run), {.principal = job.spec.principal,
                                          .peak_bytes = peak_bytes,
                                          .deadline = std::chrono::steady_clock::time_point::max(),
                                          .cancel = cancel,
                                          .priority = sched::Priority::kBatch,  // nobody waits for it at this moment
                                          .flops = flops});
  return absl::OkStatus();
}

void JobWork::Stop(const jobs::JobId& id) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto job = started_.find(id); job != started_.end()) job->second.Cancel();
  }
  parts_.executor.Poke();
}

absl::StatusOr<std::unique_ptr<jobs::Jobs>> OpenJobs(const config::JobsConfig& config, jobs::JobRunner& runner, obs::Metrics& metrics) {
  if (config.directory.empty()) return jobs::NoJobs();
  jobs::JobStore::Options options;
  options.max_per_principal = config.max_per_principal;
  options.max_bytes = uint64_t{config.max_mib} * 1024 * 1024;
  options.keep = std::chrono::hours(config.keep_hours);
  FS_ASSIGN_OR_RETURN(std::unique_ptr<jobs::JobStore> store, jobs::JobStore::Open(config.directory, std::move(options)));
  return std::make_unique<jobs::JobManager>(std::move(store), runner, metrics);
}

}  // namespace fluoroscope::engine
