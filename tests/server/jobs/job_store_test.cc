#include "jobs/job_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace fluoroscope::jobs {
namespace {

using std::chrono::hours;
using std::chrono::system_clock;
using testing::ElementsAre;
using testing::HasSubstr;

MATCHER_P2(IsError, code, words, "") { return arg.code() == code && std::string(arg.message()).find(words) != std::string::npos; }

class JobStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/jobs_store_" + std::to_string(getpid()) + "_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    options_.max_per_principal = 3;
    options_.max_bytes = 1000;
    options_.keep = hours(2);
    options_.now = [this] { return now_; };
    Open();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Open() {
    store_.reset();
    auto store = JobStore::Open(directory_, options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  static JobSpec Spec(const std::string& principal = "me") {
    JobSpec spec;
    spec.principal = principal;
    spec.kind = "sweep";
    spec.model = "tiny";
    spec.request = std::string("re\0quest", 8);
    spec.header = "header";
    spec.cells = 10;
    spec.plan_sha256 = "plan";
    spec.weights_sha256 = "weights";
    spec.numbers = "f32 on cpu";
    spec.expected_bytes = 100;
    return spec;
  }

  JobId Create(const std::string& principal = "me") {
    auto job = store_->Create(Spec(principal));
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->id : JobId();
  }
  JobId Run() {
    const JobId id = Create();
    EXPECT_TRUE(store_->SetState(id, JobState::kRunning).ok());
    return id;
  }

  std::string directory_;
  system_clock::time_point now_ = system_clock::time_point(hours(1000));
  JobStore::Options options_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobStoreTest, WhatIsKeptComesBackAfterReopening) {
  const JobId id = Run();
  ASSERT_TRUE(store_->Append(id, 0, {{"a", 2}, {std::string("\0b", 2), 3}}).ok());
  Open();  // what was running is queued again
  auto job = store_->Get(id, "me");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state, JobState::kQueued);
  EXPECT_EQ(job->done, 5u);
  EXPECT_EQ(job->next_sequence, 2u);
  EXPECT_EQ(job->created, now_);
  EXPECT_EQ(job->spec.request, Spec().request);
  EXPECT_EQ(job->spec.header, "header");
  EXPECT_EQ(job->spec.cells, 10u);
  EXPECT_EQ(job->spec.plan_sha256, "plan");
  EXPECT_EQ(job->spec.weights_sha256, "weights");
  EXPECT_EQ(job->spec.numbers, "f32 on cpu");
  EXPECT_THAT(*store_->Read(id, "me", 0, 1000), ElementsAre("a", std::string("\0b", 2)));
  ASSERT_TRUE(store_->SetState(id, JobState::kRunning).ok());
  ASSERT_TRUE(store_->SetState(id, JobState::kDone, absl::OkStatus(), "summary").ok());
  Open();
  job = store_->Get(id, "me");
  EXPECT_EQ(job->state, JobState::kDone);
  EXPECT_EQ(job->summary, "summary");
  EXPECT_TRUE(job->status.ok());
}

TEST_F(JobStoreTest, APieceOutOfTurnIsRefusedAndChangesNothing) {
  const JobId id = Run();
  EXPECT_THAT(store_->Append(id, 1, {{"gap", 1}}), IsError(absl::StatusCode::kFailedPrecondition, "piece 1 of a job whose next is 0"));
  ASSERT_TRUE(store_->Append(id, 0, {{"a", 1}}).ok());
  EXPECT_THAT(store_->Append(id, 0, {{"again", 1}}), IsError(absl::StatusCode::kFailedPrecondition, "piece 0 of a job whose next is 1"));
  EXPECT_THAT(store_->Append(id, 1, {{"b", 1}, {"more than there are", 9}}),
              IsError(absl::StatusCode::kInternal, "10 cells would have finished 11"));
  EXPECT_THAT(*store_->Read(id, "me", 0, 1000), ElementsAre("a"));
  EXPECT_EQ(store_->Get(id, "me")->done, 1u);
  ASSERT_TRUE(store_->SetState(id, JobState::kCancelled, absl::CancelledError("enough")).ok());
  EXPECT_THAT(store_->Append(id, 1, {{"late", 1}}), IsError(absl::StatusCode::kFailedPrecondition, "a job that is cancelled"));
}

TEST_F(JobStoreTest, PagesAreInOrderAndHaveAtLeastOnePiece) {
  const JobId id = Run();
  ASSERT_TRUE(store_->Append(id, 0, {{"aaaa", 1}, {"bbbb", 1}, {"cc", 1}}).ok());
  EXPECT_THAT(*store_->Read(id, "me", 0, 8), ElementsAre("aaaa", "bbbb"));
  EXPECT_THAT(*store_->Read(id, "me", 0, 1), ElementsAre("aaaa"));
  EXPECT_THAT(*store_->Read(id, "me", 2, 100), ElementsAre("cc"));
  EXPECT_THAT(*store_->Read(id, "me", 3, 100), ElementsAre());
}

TEST_F(JobStoreTest, AnothersJobIsNotFoundInTheWordsOfOneThatNeverWas) {
  const JobId id = Create("me");
  const std::string words = store_->Get(id, "you").status().ToString();
  const JobId never = JobId::Random();
  std::string expected = store_->Get(never, "you").status().ToString();
  expected.replace(expected.find(never.ToHex()), 32, id.ToHex());
  EXPECT_EQ(words, expected);
  EXPECT_TRUE(absl::IsNotFound(store_->Read(id, "you", 0, 10).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Delete(id, "you")));
  EXPECT_TRUE(store_->List("you")->empty());
  EXPECT_EQ(store_->List("me")->size(), 1u);
}

TEST_F(JobStoreTest, StatesFollowTheContract) {
  const JobId id = Create();
  EXPECT_THAT(store_->SetState(id, JobState::kDone), IsError(absl::StatusCode::kFailedPrecondition, "queued cannot become done"));
  ASSERT_TRUE(store_->SetState(id, JobState::kRunning).ok());
  ASSERT_TRUE(store_->SetState(id, JobState::kFailed, absl::InternalError("it broke")).ok());
  EXPECT_EQ(store_->Get(id, "me")->status, absl::InternalError("it broke"));
  EXPECT_THAT(store_->SetState(id, JobState::kRunning), IsError(absl::StatusCode::kFailedPrecondition, "failed cannot become running"));
  EXPECT_TRUE(absl::IsNotFound(store_->SetState(JobId::Random(), JobState::kRunning)));
}

TEST_F(JobStoreTest, LimitsNameBothNumbers) {
  for (int i = 0; i < 3; ++i) Create();
  EXPECT_THAT(store_->Create(Spec()).status(),
              IsError(absl::StatusCode::kResourceExhausted, "you have 3 jobs, finished ones included; the limit is 3"));
  JobSpec large = Spec("you");
  large.expected_bytes = 701;
  EXPECT_THAT(store_->Create(large).status(), IsError(absl::StatusCode::kResourceExhausted, "about 701 bytes and all jobs' 300 already"));
  large.expected_bytes = 700;
  EXPECT_TRUE(store_->Create(large).ok());
}

TEST_F(JobStoreTest, AnEndedJobIsKeptForAWhile) {
  const JobId unfinished = Create(), ended = Run();
  ASSERT_TRUE(store_->Append(ended, 0, {{"a", 1}}).ok());
  ASSERT_TRUE(store_->SetState(ended, JobState::kCancelled, absl::CancelledError("")).ok());
  now_ += hours(2);
  EXPECT_EQ(*store_->DeleteExpired(), 0u);
  now_ += hours(1);
  EXPECT_EQ(*store_->DeleteExpired(), 1u);
  EXPECT_TRUE(absl::IsNotFound(store_->Get(ended, "me").status()));
  EXPECT_TRUE(store_->Get(unfinished, "me").ok());
}

TEST_F(JobStoreTest, CountsAndListsInOrder) {
  const JobId first = Create(), second = Run(), third = Create("you");
  EXPECT_THAT(*store_->Counts(), ElementsAre(2u, 1u, 0u, 0u, 0u));
  const auto unfinished = *store_->Unfinished();
  ASSERT_EQ(unfinished.size(), 3u);
  EXPECT_EQ(unfinished[0].id, first);
  EXPECT_EQ(unfinished[2].id, third);
  const auto mine = *store_->List("me");
  ASSERT_EQ(mine.size(), 2u);
  EXPECT_EQ(mine[0].id, second);
}

TEST_F(JobStoreTest, NobodyElseMayReadTheFileOrUseItAtTheSameTime) {
  struct stat about {};
  ASSERT_EQ(stat((directory_ + "/jobs.sqlite").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(directory_.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);
}

TEST_F(JobStoreTest, AFileThatIsDamagedOrNotOursIsRefusedByName) {
  const auto refused = [&](const std::string& words) {
    const auto opened = JobStore::Open(directory_, options_);
    EXPECT_THAT(opened.status(), IsError(absl::StatusCode::kFailedPrecondition, words));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("jobs.sqlite"));
  };
  const std::string file = directory_ + "/jobs.sqlite";
  const JobId id = Run();
  std::vector<Piece> pieces(200, Piece{std::string(500, 'x'), 0});
  ASSERT_TRUE(store_->Append(id, 0, pieces).ok());
  store_.reset();
  {  // in the middle of a page
    std::fstream damaged(file, std::ios::in | std::ios::out | std::ios::binary);
    damaged.seekp(8192);
    damaged << std::string(3000, '\xff');
  }
  refused("move the file away");
  std::ofstream(file, std::ios::trunc) << std::string(5000, 'n');
  refused("move the file away");
  std::filesystem::remove(file);
  {
    auto other = Database::Open(file);
    ASSERT_TRUE(other.ok()) << other.status();
    ASSERT_TRUE((*other)->Execute("CREATE TABLE theirs(a)").ok());
  }
  refused("not one of Fluoroscope's jobs");
  std::filesystem::remove(file);
  Open();
  store_.reset();
  {
    auto newer = Database::Open(file);
    ASSERT_TRUE((*newer)->Execute("PRAGMA user_version = 2").ok());
  }
  refused("version 2 of the job tables; this server reads version 1");
}

}  // namespace
}  // namespace fluoroscope::jobs
