// Order, fairness, admission, blocking and refusals. How works end without a result is in executor_ending_test.cc.
#include "sched/executor.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/sched/metric_value.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Progress = Work::Progress;

class ExecutorTest : public testing::Test {
 protected:
  void Start(Executor::Options options) { executor_ = std::make_unique<Executor>(options, metrics_); }

  std::future<absl::Status> Submit(const std::shared_ptr<ScriptWork>& work, const std::string& principal, uint64_t bytes = 1) {
    std::future<absl::Status> end = work->end();
    executor_->Submit(work, {.principal = principal, .peak_bytes = bytes, .cancel = {}});
    return end;
  }

  // A work that holds the executor's thread inside its only step until `gate` opens; returns when it is there.
  std::future<absl::Status> Occupy(Gate& gate, uint64_t bytes = 0) {
    auto entered = std::make_shared<Gate>();
    auto end = Submit(MakeWork([&gate, entered](int) {
                        entered->Open();
                        gate.Wait();
                        return Progress::kDone;
                      }),
                      "occupier", bytes);
    entered->Wait();
    return end;
  }

  std::shared_ptr<ScriptWork> Steps(const std::string& name, int steps) {
    return MakeWork([this, name, steps](int step) {
      journal_.Add(name);
      return step + 1 == steps ? Progress::kDone : Progress::kMore;
    });
  }

  obs::Metrics metrics_;
  Journal journal_;
  std::unique_ptr<Executor> executor_;
};

TEST_F(ExecutorTest, StepsUntilDone) {
  Start({.budget_bytes = 100});
  const auto work = Steps("a", 5);
  auto end = Submit(work, "a");
  EXPECT_EQ(Get(end), absl::OkStatus());
  EXPECT_EQ(work->steps(), 5);
}

TEST_F(ExecutorTest, AdmittedWorksTakeTurns) {
  Start({.budget_bytes = 100});
  Gate gate;
  auto occupied = Occupy(gate);
  auto a = Submit(Steps("a", 3), "a"), b = Submit(Steps("b", 1), "b"), c = Submit(Steps("c", 2), "c");
  gate.Open();
  EXPECT_EQ(Get(occupied), absl::OkStatus());
  for (auto* end : {&a, &b, &c}) EXPECT_EQ(Get(*end), absl::OkStatus());
  EXPECT_THAT(journal_.entries(), ElementsAre("a", "b", "c", "a", "c", "a"));
}

// A short step in which others may be admitted costs no turn; who was admitted has the next one.
TEST_F(ExecutorTest, WhoGoesOnKeepsItsTurn) {
  Start({.budget_bytes = 100});
  Gate entered, submitted;
  auto looks = Submit(MakeWork([&](int step) {
                        if (step == 0) {
                          entered.Open();
                          submitted.Wait();
                        }
                        journal_.Add("looks");
                        return step == 3 ? Progress::kDone : step < 2 ? Progress::kGoOn : Progress::kMore;
                      }),
                      "a");
  entered.Wait();
  auto other = Submit(Steps("other", 2), "b");
  submitted.Open();
  for (auto* end : {&looks, &other}) EXPECT_EQ(Get(*end), absl::OkStatus());
  EXPECT_THAT(journal_.entries(), ElementsAre("looks", "looks", "looks", "other", "looks", "other"));
}

// Nobody keeps the turn by saying that the steps are short.
TEST_F(ExecutorTest, WhoGoesOnForLongHasHadItsTurn) {
  Start({.budget_bytes = 100});
  Gate entered, submitted;
  auto goes_on = Submit(MakeWork([&](int step) {
                          if (step == 0) {
                            entered.Open();
                            submitted.Wait();
                          }
                          const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(25);
                          while (std::chrono::steady_clock::now() < end) {
                          }
                          journal_.Add("goes on");
                          return step == 2 ? Progress::kDone : Progress::kGoOn;
                        }),
                        "a");
  entered.Wait();
  auto other = Submit(Steps("other", 2), "b");
  submitted.Open();
  for (auto* end : {&goes_on, &other}) EXPECT_EQ(Get(*end), absl::OkStatus());
  // The other one was admitted when the first step's turn was over, and came behind.
  EXPECT_THAT(journal_.entries(), ElementsAre("goes on", "goes on", "other", "goes on", "other"));
}

TEST_F(ExecutorTest, ALateShortWorkDoesNotWaitForALongOne) {
  Start({.budget_bytes = 100});
  Gate entered, submitted;
  auto second = Steps("short", 1);
  auto end_long = Submit(MakeWork([&](int step) {
                           if (step == 0) {
                             entered.Open();
                             submitted.Wait();
                           }
                           journal_.Add("long");
                           return step == 50 ? Progress::kDone : Progress::kMore;
                         }),
                         "a");
  entered.Wait();
  auto end_short = Submit(second, "b");
  submitted.Open();
  EXPECT_EQ(Get(end_long), absl::OkStatus());
  EXPECT_EQ(Get(end_short), absl::OkStatus());
  EXPECT_EQ(journal_.entries()[2], "short");  // after at most one turn of each that was there before
}

TEST_F(ExecutorTest, WorksThatDoNotFitTogetherRunOneAfterTheOtherFairly) {
  Start({.budget_bytes = 160});
  Gate gate;
  auto occupied = Occupy(gate, 160);
  std::vector<std::future<absl::Status>> ends;
  // Each needs more than half of the budget, so that no two fit; all are equally large, so that each turn costs the same.
  for (const char* name : {"a1", "a2", "a3", "b1", "b2", "c1"}) ends.push_back(Submit(Steps(name, 2), {name[0]}, 90));
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_queue_depth"), 6);
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_admitted_bytes"), 160);
  gate.Open();
  EXPECT_EQ(Get(occupied), absl::OkStatus());
  for (auto& end : ends) EXPECT_EQ(Get(end), absl::OkStatus());
  EXPECT_THAT(journal_.entries(), ElementsAre("a1", "a1", "b1", "b1", "c1", "c1", "a2", "a2", "b2", "b2", "a3", "a3"));
}

TEST_F(ExecutorTest, TheBudgetIsNeverExceededAndGivenBack) {
  Start({.budget_bytes = 100});
  int64_t in_use = 0, most = 0;  // the executor's thread only; read after the ends
  std::vector<std::future<absl::Status>> ends;
  for (int i = 0; i < 60; ++i) {
    const int64_t bytes = 1 + (i * 37) % 100;
    auto work = MakeWork([&, bytes](int step) {
      if (step == 0) most = std::max(most, in_use += bytes);
      return step == 3 ? Progress::kDone : Progress::kMore;
    });
    work->on_destroy = [&, bytes] { in_use -= bytes; };  // charged until its memory is really free
    ends.push_back(work->end());
    executor_->Submit(std::move(work), {.principal = std::to_string(i % 7), .peak_bytes = static_cast<uint64_t>(bytes), .cancel = {}});
  }
  for (auto& end : ends) EXPECT_EQ(Get(end), absl::OkStatus());
  executor_->Drain(kPatience);
  EXPECT_EQ(in_use, 0);
  EXPECT_LE(most, 100);
  EXPECT_GT(most, 80);  // and it is used
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_admitted_bytes"), 0);
}

TEST_F(ExecutorTest, OnlySoManyTakeTurnsAtOnce) {
  Start({.budget_bytes = 100, .max_running = 2});
  Gate gate;
  auto occupied = Occupy(gate);
  auto a = Submit(Steps("a", 2), "a"), b = Submit(Steps("b", 2), "b"), c = Submit(Steps("c", 1), "c");
  gate.Open();
  for (auto* end : {&occupied, &a, &b, &c}) EXPECT_EQ(Get(*end), absl::OkStatus());
  EXPECT_THAT(journal_.entries(), ElementsAre("a", "b", "a", "b", "c"));
}

TEST_F(ExecutorTest, OverBudgetIsRefusedAtOnceWithBothNumbers) {
  Start({.budget_bytes = uint64_t{1} << 30});
  const auto work = Steps("a", 1);
  auto end = Submit(work, "a", (uint64_t{1} << 30) + 1);
  ASSERT_EQ(end.wait_for(std::chrono::seconds(0)), std::future_status::ready) << "Abort comes before Submit returns";
  const absl::Status status = end.get();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1073741825 bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("budget is 1.0 GiB (1073741824 bytes)"));
  EXPECT_EQ(work->steps(), 0);
  EXPECT_EQ(Rejections(metrics_, "over_budget"), 1);
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_budget_bytes"), 1073741824);
  auto exactly = Submit(Steps("b", 1), "a", uint64_t{1} << 30);
  EXPECT_EQ(Get(exactly), absl::OkStatus());
}

TEST_F(ExecutorTest, AFullQueueRefusesAndServesTheNext) {
  Start({.max_waiting = 2, .budget_bytes = 100});
  Gate gate;
  auto occupied = Occupy(gate);
  auto a = Submit(Steps("a", 1), "a"), b = Submit(Steps("b", 1), "b"), refused = Submit(Steps("c", 1), "c");
  ASSERT_EQ(refused.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_EQ(refused.get(), absl::ResourceExhaustedError("the queue is full: 2 requests are waiting and at most 2 may; try again later"));
  EXPECT_EQ(Rejections(metrics_, "queue_full"), 1);
  gate.Open();
  for (auto* end : {&occupied, &a, &b}) EXPECT_EQ(Get(*end), absl::OkStatus());
  auto next = Submit(Steps("d", 1), "d");
  EXPECT_EQ(Get(next), absl::OkStatus());
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_queue_wait_seconds_count"), 4);
  EXPECT_EQ(MetricValue(metrics_, "fluoroscope_queue_depth"), 0);
}

TEST_F(ExecutorTest, ABlockedWorkIsNotSteppedAndKeepsItsBytes) {
  Start({.budget_bytes = 100});
  const auto slow = MakeWork([&](int step) { return step == 0 ? Progress::kBlocked : Progress::kDone; });
  auto slow_end = Submit(slow, "slow", 60);
  // Two others that both run to their end afterwards prove that it is parked: turns would have reached it.
  for (int i = 0; i < 2; ++i) {
    auto other = Submit(Steps("other", 5), "other", 40);
    EXPECT_EQ(Get(other), absl::OkStatus());
  }
  EXPECT_EQ(slow->steps(), 1);
  EXPECT_GE(MetricValue(metrics_, "fluoroscope_admitted_bytes"), 60);
  auto waits = Submit(Steps("waits", 1), "waits", 50);  // does not fit beside it
  auto passes = Submit(Steps("passes", 1), "passes", 40);
  EXPECT_EQ(Get(passes), absl::OkStatus());
  EXPECT_EQ(waits.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  executor_->Resume(slow.get());
  EXPECT_EQ(Get(slow_end), absl::OkStatus());
  EXPECT_EQ(Get(waits), absl::OkStatus());
  EXPECT_EQ(slow->steps(), 2);
}

TEST_F(ExecutorTest, ResumeDuringTheStepThatBlocksIsNotLost) {
  Start({.budget_bytes = 100});
  for (const bool from_another_thread : {false, true}) {
    ScriptWork* self = nullptr;
    const auto work = MakeWork([&](int step) {
      if (step == 1000) return Progress::kDone;
      if (from_another_thread) {
        std::jthread([&] { executor_->Resume(self); });  // joined at once: before kBlocked is returned
      } else {
        executor_->Resume(self);
      }
      return Progress::kBlocked;
    });
    self = work.get();
    auto end = Submit(work, "a");
    EXPECT_EQ(Get(end), absl::OkStatus());
    EXPECT_EQ(work->steps(), 1001);
  }
}

TEST_F(ExecutorTest, ResumeRacingWithTheReturnOfKBlockedIsNotLost) {
  Start({.budget_bytes = 100});
  std::atomic<int> blocked_for = -1;
  constexpr int kRounds = 3000;
  const auto work = MakeWork([&](int step) {
    if (step == kRounds) return Progress::kDone;
    blocked_for = step;  // from now on the other thread may resume: before, while or after kBlocked is returned
    return Progress::kBlocked;
  });
  auto end = Submit(work, "a");
  std::jthread reader([&] {
    for (int round = 0; round < kRounds; ++round) {
      while (blocked_for < round) std::this_thread::yield();
      executor_->Resume(work.get());
    }
  });
  EXPECT_EQ(Get(end), absl::OkStatus());
  EXPECT_EQ(work->steps(), kRounds + 1);
}

TEST_F(ExecutorTest, ResumeOfAnyOtherWorkIsHarmless) {
  Start({.budget_bytes = 100});
  const auto never_submitted = Steps("never", 1);
  executor_->Resume(never_submitted.get());
  executor_->Resume(nullptr);
  const auto work = Steps("a", 3);
  auto end = Submit(work, "a");
  executor_->Resume(work.get());
  EXPECT_EQ(Get(end), absl::OkStatus());
  executor_->Resume(work.get());  // ended
  auto other = Submit(Steps("b", 1), "b");
  EXPECT_EQ(Get(other), absl::OkStatus());
  EXPECT_EQ(work->steps(), 3);
  EXPECT_EQ(never_submitted->steps(), 0);
}

TEST_F(ExecutorTest, AStepMaySubmitAndPoke) {
  Start({.budget_bytes = 100});
  const auto inner = Steps("inner", 1);
  auto inner_end = inner->end();
  auto outer = Submit(MakeWork([&](int) {
                        executor_->Submit(inner, {.principal = "a", .peak_bytes = 1, .cancel = {}});
                        executor_->Poke();
                        return Progress::kDone;
                      }),
                      "a");
  EXPECT_EQ(Get(outer), absl::OkStatus());
  EXPECT_EQ(Get(inner_end), absl::OkStatus());
}

TEST_F(ExecutorTest, AStepThatThrowsFailsAloneWithInternal) {
  Start({.budget_bytes = 100});
  auto thrower = Submit(MakeWork([](int step) -> Progress {
                          if (step == 2) throw std::runtime_error("the tensor is on fire");
                          return Progress::kMore;
                        }),
                        "a", 100);
  auto stranger = Submit(MakeWork([](int) -> Progress { throw 42; }), "b", 100);  // NOLINT: any type may be thrown
  auto good = Submit(Steps("c", 3), "c", 100);
  EXPECT_EQ(Get(thrower), absl::InternalError("the run failed unexpectedly: the tensor is on fire"));
  EXPECT_EQ(Get(stranger), absl::InternalError("the run failed unexpectedly: an unknown exception"));
  EXPECT_EQ(Get(good), absl::OkStatus());  // and their bytes came back
}

TEST_F(ExecutorTest, AnAbortThatThrowsHarmsNobody) {
  Start({.budget_bytes = 100});
  const auto bad = MakeWork([](int) -> Progress { throw std::runtime_error("first"); });
  bad->on_abort = [] { throw std::runtime_error("second"); };
  executor_->Submit(bad, {.principal = "a", .peak_bytes = 100, .cancel = {}});
  const auto refused = Steps("b", 1);
  refused->on_abort = [] { throw std::runtime_error("third"); };
  executor_->Submit(refused, {.principal = "b", .peak_bytes = 101, .cancel = {}});
  auto good = Submit(Steps("c", 1), "c", 100);
  EXPECT_EQ(Get(good), absl::OkStatus());
}

TEST_F(ExecutorTest, HealthyUnlessAStepTakesTooLong) {
  Start({.budget_bytes = 100, .stuck_after = std::chrono::seconds(0)});
  EXPECT_TRUE(executor_->Healthy());
  Gate gate;
  auto occupied = Occupy(gate);
  while (executor_->Healthy()) std::this_thread::yield();  // until the clock has moved by one tick
  EXPECT_FALSE(executor_->Healthy());
  gate.Open();
  EXPECT_EQ(Get(occupied), absl::OkStatus());
  executor_->Drain(kPatience);
  EXPECT_TRUE(executor_->Healthy());
  EXPECT_GT(MetricValue(metrics_, "fluoroscope_executor_busy_seconds_total"), 0);
}

TEST_F(ExecutorTest, AStepWithinItsTimeIsHealthy) {
  Start({.budget_bytes = 100, .stuck_after = std::chrono::seconds(3600)});
  Gate gate;
  auto occupied = Occupy(gate);
  EXPECT_TRUE(executor_->Healthy());
  gate.Open();
  EXPECT_EQ(Get(occupied), absl::OkStatus());
}

}  // namespace
}  // namespace fluoroscope::sched
