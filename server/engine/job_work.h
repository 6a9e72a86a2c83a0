// Runs jobs as ordinary work of the executor: the same sweeps, whose cells go to the job store instead of a reader.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/grid_codec.h"
#include "base/cancel.h"
#include "config/config.h"
#include "engine/loaded_model.h"
#include "engine/task_thread.h"
#include "jobs/job_runner.h"
#include "jobs/jobs.h"
#include "sched/executor.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// Plans on the prepare thread, then submits to the executor. Methods may be called from any thread. A job's cells never wait for anybody:
// its sink hands them over to the jobs thread.
class JobWork final : public jobs::JobRunner {
 public:
  // What it needs of the engine; all outlive it, but executor and prepare thread only its use.
  struct Parts {
    std::function<absl::StatusOr<std::shared_ptr<LoadedModel>>(const std::string& name)> find;
    const config::ServerConfig& config;
    obs::Metrics& metrics;
    std::shared_ptr<const api::GridCodec> codec;
    sched::Executor& executor;
    TaskThread& prepare;
  };
  explicit JobWork(Parts parts) : parts_(std::move(parts)) {}

  void Plan(std::string kind, std::string request, api::CallContext call, std::function<void(absl::StatusOr<jobs::JobSpec>)> done) override;
  void Start(jobs::JobInfo job, std::vector<std::string> finished, std::shared_ptr<jobs::JobOutput> output) override;
  void Stop(const jobs::JobId& id) override;

 private:
  absl::StatusOr<jobs::JobSpec> MakeSpec(const std::string& kind, const std::string& request, const std::string& principal) const;
  absl::Status Submit(const jobs::JobInfo& job, const std::vector<std::string>& finished, const std::shared_ptr<jobs::JobOutput>& output,
                      const CancelToken& cancel) const;

  const Parts parts_;
  std::mutex mutex_;
  std::map<jobs::JobId, CancelToken> started_;  // guarded by mutex_; of the last start of each job
};

// The jobs of a server: refused when there is no directory for them.
absl::StatusOr<std::unique_ptr<jobs::Jobs>> OpenJobs(const config::JobsConfig& config, jobs::JobRunner& runner, obs::Metrics& metrics);

}  // namespace fluoroscope::engine
