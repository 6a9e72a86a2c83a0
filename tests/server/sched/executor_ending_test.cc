// How works end without a result: cancelled, late, drained; while they wait, run or are blocked.
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sched/executor.h"
#include "tests/server/sched/metric_value.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

using Progress = Work::Progress;
using SteadyClock = std::chrono::steady_clock;
constexpr SteadyClock::time_point kNever = SteadyClock::time_point::max();

class ExecutorEndingTest : public testing::Test {
 protected:
  std::future<absl::Status> Submit(const std::shared_ptr<ScriptWork>& work, uint64_t bytes = 1, SteadyClock::time_point deadline = kNever,
                                   const CancelToken& cancel = {}) {
    std::future<absl::Status> end = work->end();
    executor_->Submit(work, {.principal = "p", .peak_bytes = bytes, .deadline = deadline, .cancel = cancel});
    return end;
  }

  // A work that steps for ever.
  static std::shared_ptr<ScriptWork> Endless(Gate* first_step = nullptr) {
    return MakeWork([first_step](int) {
      if (first_step != nullptr) first_step->Open();
      return Progress::kMore;
    });
  }

  // Blocks the budget for good: returns when the executor has nothing to step and sleeps or is about to.
  std::shared_ptr<ScriptWork> Park(std::future<absl::Status>& end, uint64_t bytes = 100, SteadyClock::time_point deadline = kNever,
                                   const CancelToken& cancel = {}) {
    auto stepped = std::make_shared<Gate>();
    auto work = MakeWork([stepped](int step) {
      stepped->Open();
      return step == 0 ? Progress::kBlocked : Progress::kDone;
    });
    end = Submit(work, bytes, deadline, cancel);
    stepped->Wait();
    return work;
  }

  static SteadyClock::time_point Soon() { return SteadyClock::now() + std::chrono::milliseconds(30); }

  obs::Metrics metrics_;
  std::unique_ptr<Executor> executor_ = std::make_unique<Executor>(Executor::Options{.budget_bytes = 100}, metrics_);
};

TEST_F(ExecutorEndingTest, CancelledBeforeSubmitIsRefusedAtOnce) {
  CancelToken cancel;
  cancel.Cancel();
  const auto work = Endless();
  auto end = Submit(work, 1, kNever, cancel);
  ASSERT_EQ(end.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_EQ(end.get(), absl::CancelledError("the request was cancelled while being submitted"));
  EXPECT_EQ(work->steps(), 0);
  EXPECT_EQ(Rejections(metrics_, "cancelled"), 1);
}

TEST_F(ExecutorEndingTest, LateBeforeSubmitIsRefusedAtOnce) {
  const auto work = Endless();
  auto end = Submit(work, 1, SteadyClock::now());
  ASSERT_EQ(end.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_EQ(end.get(), absl::DeadlineExceededError("the deadline passed while being submitted"));
  EXPECT_EQ(work->steps(), 0);
  EXPECT_EQ(Rejections(metrics_, "deadline"), 1);
}

TEST_F(ExecutorEndingTest, CancelOfARunningWorkTakesEffectWithinOneStep) {
  CancelToken cancel;
  // The token is set within step 7: no step 8 may follow, with no Poke at all.
  const auto work = MakeWork([&cancel](int step) {
    EXPECT_LE(step, 7);
    if (step == 7) cancel.Cancel();
    return Progress::kMore;
  });
  auto end = Submit(work, 1, kNever, cancel);
  EXPECT_EQ(Get(end), absl::CancelledError("the request was cancelled while running"));
  EXPECT_EQ(work->steps(), 8);
}

TEST_F(ExecutorEndingTest, CancelFromOutsideStopsARunningWorkAndFreesItsBytes) {
  Gate running;
  CancelToken cancel;
  auto end = Submit(Endless(&running), 100, kNever, cancel);
  auto next = Submit(MakeWork([](int) { return Progress::kDone; }), 100);
  running.Wait();
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(Get(end)));
  EXPECT_EQ(Get(next), absl::OkStatus());
}

TEST_F(ExecutorEndingTest, ADoneWorkIsNotAbortedThoughCancelledInItsLastStep) {
  CancelToken cancel;
  const auto work = MakeWork([&cancel](int) {
    cancel.Cancel();
    return Progress::kDone;
  });
  auto end = Submit(work, 1, kNever, cancel);
  EXPECT_EQ(Get(end), absl::OkStatus());
  executor_->Drain(kPatience);  // ScriptWork fails the test on an Abort now
}

TEST_F(ExecutorEndingTest, PokeMakesACancelledBlockedWorkEnd) {
  CancelToken cancel;
  std::future<absl::Status> end;
  Park(end, 100, kNever, cancel);
  cancel.Cancel();
  executor_->Poke();
  EXPECT_TRUE(absl::IsCancelled(Get(end)));
}

TEST_F(ExecutorEndingTest, PokeMakesACancelledWaitingWorkEndWithoutAStep) {
  CancelToken cancel;
  std::future<absl::Status> parked;
  const auto parked_work = Park(parked);
  const auto waiting = Endless();
  auto end = Submit(waiting, 100, kNever, cancel);
  cancel.Cancel();
  executor_->Poke();
  EXPECT_EQ(Get(end), absl::CancelledError("the request was cancelled while waiting in the queue"));
  EXPECT_EQ(waiting->steps(), 0);
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_queue_depth"), 0);
  executor_->Resume(parked_work.get());
  EXPECT_EQ(Get(parked), absl::OkStatus());
}

TEST_F(ExecutorEndingTest, DeadlineOfARunningWork) {
  auto end = Submit(Endless(), 1, Soon());
  EXPECT_EQ(Get(end), absl::DeadlineExceededError("the deadline passed while running"));
  EXPECT_EQ(Rejections(metrics_, "deadline"), 1);
}

TEST_F(ExecutorEndingTest, DeadlineOfABlockedWorkWakesTheSleepingExecutor) {
  std::future<absl::Status> end;
  const auto deadline = Soon();
  Park(end, 100, deadline);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(end)));
  EXPECT_GE(SteadyClock::now(), deadline);
}

TEST_F(ExecutorEndingTest, DeadlineOfAWaitingWorkWakesTheSleepingExecutor) {
  std::future<absl::Status> parked;
  const auto parked_work = Park(parked);
  const auto waiting = Endless();
  const auto deadline = Soon();
  auto end = Submit(waiting, 100, deadline);
  EXPECT_EQ(Get(end), absl::DeadlineExceededError("the deadline passed while waiting in the queue"));
  EXPECT_GE(SteadyClock::now(), deadline);
  EXPECT_EQ(waiting->steps(), 0);
}

TEST_F(ExecutorEndingTest, DeadlineOfAWaitingWorkIsSeenBetweenTheStepsOfAnother) {
  CancelToken cancel;
  auto running = Submit(Endless(), 100, kNever, cancel);
  auto end = Submit(Endless(), 100, Soon());
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(end)));
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(Get(running)));
}

TEST_F(ExecutorEndingTest, DrainLetsWhatIsThereFinishAndRefusesNewWork) {
  Gate entered, go_on;
  const auto running = MakeWork([&](int step) {
    if (step == 0) {
      entered.Open();
      go_on.Wait();
    }
    return step == 5 ? Progress::kDone : Progress::kMore;
  });
  auto running_end = Submit(running, 100);
  auto waiting_end = Submit(MakeWork([](int step) { return step == 5 ? Progress::kDone : Progress::kMore; }), 100);
  entered.Wait();
  {
    std::jthread drain([&] { executor_->Drain(kPatience); });
    // Refusals begin at some moment after the thread has started; what is submitted before it waits and is served.
    absl::Status refused;
    while (!absl::IsUnavailable(refused)) {  // RESOURCE_EXHAUSTED when the queue is full before that
      const auto work = MakeWork([](int) { return Progress::kDone; });
      auto end = Submit(work);
      if (end.wait_for(std::chrono::seconds(0)) == std::future_status::ready) refused = end.get();
    }
    EXPECT_EQ(refused, absl::UnavailableError("the server is shutting down; try again later or elsewhere"));
    EXPECT_GE(Rejections(metrics_, "draining"), 1);
    go_on.Open();
  }
  EXPECT_EQ(Get(running_end), absl::OkStatus());
  EXPECT_EQ(Get(waiting_end), absl::OkStatus());
}

TEST_F(ExecutorEndingTest, DrainAbortsWhatIsLeftAfterTheGraceWhereverItIs) {
  Gate running;
  std::future<absl::Status> parked_end;
  Park(parked_end, 60);
  auto running_end = Submit(Endless(&running), 40);
  auto waiting_end = Submit(Endless(), 50);
  running.Wait();
  executor_->Drain(std::chrono::milliseconds(20));
  for (auto* end : {&parked_end, &running_end, &waiting_end}) {
    ASSERT_EQ(end->wait_for(std::chrono::seconds(0)), std::future_status::ready) << "Drain returns when all has ended";
    EXPECT_TRUE(absl::IsUnavailable(end->get()));
  }
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_admitted_bytes"), 0);
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_queue_depth"), 0);
  executor_->Drain(kPatience);  // again: at once
  auto late = Submit(Endless());
  EXPECT_TRUE(absl::IsUnavailable(Get(late)));
}

TEST_F(ExecutorEndingTest, DrainOfAnIdleExecutorReturnsAtOnceEvenWithTheLongestGrace) {
  executor_->Drain(std::chrono::milliseconds::max());
}

TEST_F(ExecutorEndingTest, ASecondDrainCanOnlyShortenTheFirst) {
  Gate running;
  auto end = Submit(Endless(&running));
  running.Wait();
  std::jthread patient([&] { executor_->Drain(std::chrono::milliseconds::max()); });
  executor_->Drain(std::chrono::milliseconds(0));
  EXPECT_TRUE(absl::IsUnavailable(Get(end)));
}

TEST_F(ExecutorEndingTest, DrainFromAStepDoesNotWaitForItself) {
  const auto work = MakeWork([&](int step) {
    if (step == 0) executor_->Drain(kPatience);
    return step == 2 ? Progress::kDone : Progress::kMore;
  });
  auto end = Submit(work);
  EXPECT_EQ(Get(end), absl::OkStatus());
  auto refused = Submit(Endless());
  EXPECT_TRUE(absl::IsUnavailable(Get(refused)));
}

TEST_F(ExecutorEndingTest, TheDestructorAbortsEverythingWithUnavailable) {
  Gate running;
  std::future<absl::Status> parked_end;
  Park(parked_end, 60);
  auto running_end = Submit(Endless(&running), 40);
  auto waiting_end = Submit(Endless(), 50);
  running.Wait();
  executor_.reset();
  for (auto* end : {&parked_end, &running_end, &waiting_end}) {
    ASSERT_EQ(end->wait_for(std::chrono::seconds(0)), std::future_status::ready);
    EXPECT_TRUE(absl::IsUnavailable(end->get()));
  }
}

// If any lock were held while a work is aborted or destroyed, these calls would deadlock.
TEST_F(ExecutorEndingTest, AbortAndDestructorMayCallTheExecutor) {
  Executor* const executor = executor_.get();  // the pointer of the test is empty while it destroys
  const auto call_all = [executor] {
    executor->Resume(nullptr);
    executor->Poke();
    EXPECT_TRUE(executor->Healthy());
    executor->Submit(MakeWork([](int) { return Progress::kDone; }), {.principal = "q", .peak_bytes = 1000, .cancel = {}});  // over budget
  };
  Gate running;
  CancelToken cancel;
  std::vector<std::future<absl::Status>> ends;
  for (int i = 0; i < 3; ++i) {
    auto work = Endless(&running);
    work->on_abort = work->on_destroy = call_all;
    ends.push_back(work->end());
    executor_->Submit(std::move(work), {.principal = "p", .peak_bytes = 50, .cancel = i == 0 ? cancel : CancelToken()});
  }
  running.Wait();
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(Get(ends[0])));
  executor_.reset();
  EXPECT_TRUE(absl::IsUnavailable(Get(ends[1])));
  EXPECT_TRUE(absl::IsUnavailable(Get(ends[2])));
}

}  // namespace
}  // namespace fluoroscope::sched
