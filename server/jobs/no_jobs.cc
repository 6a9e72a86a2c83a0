#include <utility>

#include "jobs/jobs.h"

namespace fluoroscope::jobs {
namespace {

class Refusing final : public Jobs {
 public:
  void Submit(std::string, std::string, api::CallContext, Callback<JobInfo> done) override { done(Why()); }
  void Get(const JobId&, const std::string&, Callback<JobInfo> done) override { done(Why()); }
  void List(const std::string&, Callback<std::vector<JobInfo>> done) override { done(Why()); }
  void Cancel(const JobId&, const std::string&, Callback<JobInfo> done) override { done(Why()); }
  void Delete(const JobId&, const std::string&, Callback<JobId> done) override { done(Why()); }
  void Watch(const JobId&, const std::string&, std::weak_ptr<JobWatcher> watcher) override {
    if (const auto there = watcher.lock()) there->OnEnd(Why());
  }
  void Begin() override {}
  void Suspend() override {}
  void Close() override {}

 private:
  static absl::Status Why() {
    return absl::FailedPreconditionError(
        "this server keeps no jobs: its configuration has no directory for them; set jobs { directory: \"/path\" } in the file, or start "
        "it "
        "with --jobs_directory=/path");
  }
};

}  // namespace

std::unique_ptr<Jobs> NoJobs() { return std::make_unique<Refusing>(); }

}  // namespace fluoroscope::jobs
