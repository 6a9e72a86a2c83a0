#include "jobs/job_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>

#include "obs/metrics.h"

namespace fluoroscope::jobs {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Does what the test says, when it says so.
class ManualRunner final : public JobRunner {
 public:
  struct Started {
    JobInfo job;
    std::vector<std::string> finished;
    std::shared_ptr<JobOutput> output;
  };

  void Plan(std::string kind, std::string request, api::CallContext call, std::function<void(absl::StatusOr<JobSpec>)> done) override {
    if (request == "bad") return done(absl::InvalidArgumentError("bad"));
    JobSpec spec;
    spec.principal = call.principal;
    spec.kind = std::move(kind);
    spec.request = std::move(request);
    spec.header = "header";
    spec.cells = 4;
    done(spec);
  }

  void Start(JobInfo job, std::vector<std::string> finished, std::shared_ptr<JobOutput> output) override {
    const std::lock_guard lock(mutex_);
    started_.push_back({std::move(job), std::move(finished), std::move(output)});
    changed_.notify_all();
  }

  void Stop(const JobId& id) override {
    std::shared_ptr<JobOutput> output;
    {
      const std::lock_guard lock(mutex_);
      for (const Started& started : started_)
        if (started.job.id == id) output = started.output;
    }
    if (output != nullptr) output->End(absl::CancelledError("stopped"), "");
  }

  Started Nth(size_t number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_.size() > number; });
    return started_[number];
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return started_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Started> started_;
};

class TakesAll final : public JobWatcher {
 public:
  void OnMessages(std::vector<std::string> messages, std::function<void()> more) override {
    const std::lock_guard lock(mutex_);
    messages_.insert(messages_.end(), messages.begin(), messages.end());
    more();
    changed_.notify_all();
  }
  void OnEnd(absl::Status status) override {
    const std::lock_guard lock(mutex_);
    end_ = std::move(status);
    changed_.notify_all();
  }
  std::vector<std::string> UntilThereAre(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return messages_.size() >= count || end_; });
    return messages_;
  }
  absl::Status End() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return end_.has_value(); });
    return *end_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> messages_;
  std::optional<absl::Status> end_;
};

class JobManagerTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/jobs_manager_" + std::to_string(getpid()) + "_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    Open();
  }
  void TearDown() override {
    jobs_.reset();
    std::filesystem::remove_all(directory_);
  }

  // As a new process would.
  void Open() {
    jobs_.reset();
    runner_ = std::make_unique<ManualRunner>();
    auto store = JobStore::Open(directory_, {});
    ASSERT_TRUE(store.ok()) << store.status();
    jobs_ = std::make_unique<JobManager>(*std::move(store), *runner_, metrics_);
    jobs_->Begin();
  }

  template <typename T, typename Call>
  static absl::StatusOr<T> Answer(Call call) {
    std::promise<absl::StatusOr<T>> answer;
    call([&](absl::StatusOr<T> value) { answer.set_value(std::move(value)); });
    return answer.get_future().get();
  }
  absl::StatusOr<JobInfo> Submit(const std::string& request = "r", const std::string& principal = "me") {
    api::CallContext call;
    call.principal = principal;
    return Answer<JobInfo>([&](auto done) { jobs_->Submit("sweep", request, call, done); });
  }
  absl::StatusOr<JobInfo> Get(const JobId& id) {
    return Answer<JobInfo>([&](auto done) { jobs_->Get(id, "me", done); });
  }
  absl::StatusOr<JobInfo> Cancel(const JobId& id) {
    return Answer<JobInfo>([&](auto done) { jobs_->Cancel(id, "me", done); });
  }
  std::shared_ptr<TakesAll> Watch(const JobId& id, const std::string& principal = "me") {
    auto watcher = std::make_shared<TakesAll>();
    jobs_->Watch(id, principal, watcher);
    return watcher;
  }

  std::string directory_;
  obs::Metrics metrics_;
  std::unique_ptr<ManualRunner> runner_;
  std::unique_ptr<JobManager> jobs_;
};

TEST_F(JobManagerTest, WatchersSeeEverythingWheneverTheyCome) {
  const JobId id = Submit()->id;
  const auto early = Watch(id);
  const auto run = runner_->Nth(0);
  EXPECT_EQ(run.job.spec.request, "r");
  EXPECT_TRUE(run.finished.empty());
  run.output->Append({"a", 1});
  EXPECT_THAT(early->UntilThereAre(2), ElementsAre("header", "a"));
  const auto middle = Watch(id);
  run.output->Append({"b", 2});
  run.output->Append({"c", 1});
  run.output->End(absl::OkStatus(), "summary");
  for (const auto& watcher : {early, middle, Watch(id)}) {
    EXPECT_EQ(watcher->End(), absl::OkStatus());
    EXPECT_THAT(watcher->UntilThereAre(0), ElementsAre("header", "a", "b", "c", "summary"));
  }
  EXPECT_EQ(Get(id)->state, JobState::kDone);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_jobs{state=\"done\"} 1"));
}

TEST_F(JobManagerTest, ARunThatEndsEarlyIsNoSuccess) {
  const JobId id = Submit()->id;
  const auto run = runner_->Nth(0);
  run.output->Append({"a", 3});
  run.output->End(absl::OkStatus(), "summary");
  EXPECT_TRUE(absl::IsInternal(Watch(id)->End()));
  EXPECT_THAT(std::string(Get(id)->status.message()), HasSubstr("3 of 4 cells"));
}

TEST_F(JobManagerTest, SuspendedItIsResumedWithWhatIsFinished) {
  const JobId id = Submit()->id;
  const auto watcher = Watch(id);
  runner_->Nth(0).output->Append({"a", 1});
  (void)watcher->UntilThereAre(2);
  jobs_->Suspend();
  jobs_->Close();
  EXPECT_TRUE(absl::IsUnavailable(watcher->End()));
  EXPECT_TRUE(absl::IsUnavailable(Get(id).status()));
  Open();
  const auto rest = runner_->Nth(0);
  EXPECT_EQ(rest.job.id, id);
  EXPECT_THAT(rest.finished, ElementsAre("a"));
  rest.output->Append({"b", 3});
  rest.output->End(absl::OkStatus(), "summary");
  const auto again = Watch(id);
  EXPECT_EQ(again->End(), absl::OkStatus());
  EXPECT_THAT(again->UntilThereAre(0), ElementsAre("header", "a", "b", "summary"));
}

TEST_F(JobManagerTest, WhatComesAfterACancelIsDropped) {
  const JobId id = Submit()->id;
  const auto run = runner_->Nth(0);
  run.output->Append({"a", 1});
  const auto watcher = Watch(id);
  (void)watcher->UntilThereAre(2);
  const auto cancelled = Cancel(id);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->state, JobState::kCancelled);
  run.output->Append({"late", 1});
  EXPECT_TRUE(absl::IsCancelled(watcher->End()));
  EXPECT_EQ(Get(id)->done, 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(Cancel(id).status()));
}

TEST_F(JobManagerTest, OneJobOfAPrincipalRunsAtATime) {
  const JobId first = Submit()->id, second = Submit()->id, other = Submit("r", "you")->id;
  EXPECT_EQ(runner_->Nth(0).job.id, first);
  EXPECT_EQ(runner_->Nth(1).job.id, other);
  EXPECT_EQ(Get(second)->state, JobState::kQueued);
  runner_->Nth(0).output->End(absl::InternalError("broke"), "");
  EXPECT_EQ(runner_->Nth(2).job.id, second);
  EXPECT_EQ(Get(first)->state, JobState::kFailed);
}

TEST_F(JobManagerTest, ARunnerThatCannotNowIsAskedAgain) {
  const JobId id = Submit()->id;
  runner_->Nth(0).output->End(absl::UnavailableError("queue full"), "");
  EXPECT_EQ(runner_->Nth(1).job.id, id);
}

TEST_F(JobManagerTest, ADeletedJobEndsItsWatchesAndIsForgotten) {
  const JobId id = Submit()->id;
  const auto run = runner_->Nth(0);
  const auto watcher = Watch(id);
  (void)watcher->UntilThereAre(1);
  EXPECT_TRUE(absl::IsNotFound(Answer<JobId>([&](auto done) { jobs_->Delete(id, "you", done); }).status()));
  EXPECT_TRUE(Answer<JobId>([&](auto done) { jobs_->Delete(id, "me", done); }).ok());
  EXPECT_TRUE(absl::IsNotFound(watcher->End()));
  run.output->Append({"late", 1});
  EXPECT_TRUE(absl::IsNotFound(Get(id).status()));
  EXPECT_EQ(runner_->count(), 1u);
}

TEST_F(JobManagerTest, BadRequestsAndStrangersGetNothing) {
  EXPECT_TRUE(absl::IsInvalidArgument(Submit("bad").status()));
  EXPECT_TRUE(absl::IsNotFound(Watch(JobId::Random())->End()));
  const JobId id = Submit()->id;
  EXPECT_TRUE(absl::IsNotFound(Watch(id, "you")->End()));
}

TEST(NoJobs, SaysWhatToSet) {
  std::optional<absl::Status> status;
  NoJobs()->Get(JobId(), "me", [&](const absl::StatusOr<JobInfo>& answer) { status = answer.status(); });
  ASSERT_TRUE(status);
  EXPECT_TRUE(absl::IsFailedPrecondition(*status));
  EXPECT_THAT(std::string(status->message()), HasSubstr("jobs { directory:"));
}

}  // namespace
}  // namespace fluoroscope::jobs
