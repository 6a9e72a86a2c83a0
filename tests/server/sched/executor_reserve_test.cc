// Bytes of the budget that others than works hold.
#include <atomic>
#include <future>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "obs/metrics.h"
#include "sched/executor.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

using ::testing::HasSubstr;
using Progress = Work::Progress;

class ReserveTest : public testing::Test {
 protected:
  std::future<absl::Status> Submit(const std::shared_ptr<ScriptWork>& work, uint64_t bytes) {
    std::future<absl::Status> end = work->end();
    executor_.Submit(work, {.principal = "a", .peak_bytes = bytes, .cancel = {}});
    return end;
  }
  // A running work of so many bytes, until the gate opens.
  std::future<absl::Status> Occupy(Gate& gate, uint64_t bytes) {
    auto entered = std::make_shared<Gate>();
    auto end = Submit(MakeWork([&gate, entered](int) {
                        entered->Open();
                        gate.Wait();
                        return Progress::kDone;
                      }),
                      bytes);
    entered->Wait();
    return end;
  }
  std::shared_ptr<ScriptWork> Once() {
    return MakeWork([](int) { return Progress::kDone; });
  }

  obs::Metrics metrics_;
  Executor executor_{Executor::Options{.budget_bytes = 100}, metrics_};
};

TEST_F(ReserveTest, WorkHasThatMuchLess) {
  ASSERT_EQ(executor_.Reserve(40), absl::OkStatus());
  auto fits = Submit(Once(), 60);
  EXPECT_EQ(Get(fits), absl::OkStatus());
  auto refused = Submit(Once(), 61);
  const absl::Status why = Get(refused);
  EXPECT_EQ(why.code(), absl::StatusCode::kResourceExhausted);
  for (const char* number : {"61 bytes", "100 bytes", "40 bytes"}) EXPECT_THAT(std::string(why.message()), HasSubstr(number));
  executor_.Release(40);
  auto whole = Submit(Once(), 100);
  EXPECT_EQ(Get(whole), absl::OkStatus());
}

TEST_F(ReserveTest, NothingIsTakenFromRunningWork) {
  Gate gate;
  auto running = Occupy(gate, 70);
  const absl::Status why = executor_.Reserve(31);
  EXPECT_EQ(why.code(), absl::StatusCode::kResourceExhausted);
  for (const char* number : {"31 bytes", "30 bytes", "100 bytes"}) EXPECT_THAT(std::string(why.message()), HasSubstr(number));
  EXPECT_EQ(executor_.Reserve(30), absl::OkStatus());
  gate.Open();
  EXPECT_EQ(Get(running), absl::OkStatus());
}

TEST_F(ReserveTest, NorFromWaitingWork) {
  Gate gate;
  auto running = Occupy(gate, 50);
  auto waiting = Submit(Once(), 90);
  EXPECT_EQ(executor_.Reserve(11).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(executor_.Reserve(10), absl::OkStatus());
  gate.Open();
  EXPECT_EQ(Get(running), absl::OkStatus());
  EXPECT_EQ(Get(waiting), absl::OkStatus());
}

TEST_F(ReserveTest, ManyReservationsAddUp) {
  ASSERT_EQ(executor_.Reserve(60), absl::OkStatus());
  EXPECT_EQ(executor_.Reserve(41).code(), absl::StatusCode::kResourceExhausted);
  ASSERT_EQ(executor_.Reserve(40), absl::OkStatus());
  EXPECT_EQ(executor_.Reserve(1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(executor_.Reserve(0), absl::OkStatus());
  executor_.Release(100);
  EXPECT_EQ(executor_.Reserve(100), absl::OkStatus());
}

// A cache of `held` bytes that gives back in pieces of ten.
class SpareTest : public ReserveTest {
 protected:
  void GiveBack(uint64_t bytes) {
    asked_ += bytes;
    for (uint64_t given = 0; given < bytes; given += 10) {
      spared_.ReleaseSpare(10);
      held_ -= 10;
    }
  }
  bool Keep(uint64_t bytes) {
    if (!spared_.ReserveSpare(bytes)) return false;
    held_ += bytes;
    return true;
  }
  absl::Status Run(uint64_t bytes, uint64_t* held_while_running = nullptr) {
    auto work = MakeWork([this, held_while_running](int) {
      if (held_while_running != nullptr) *held_while_running = held_;
      return Progress::kDone;
    });
    std::future<absl::Status> end = work->end();
    spared_.Submit(work, {.principal = "a", .peak_bytes = bytes, .cancel = {}});
    return Get(end);
  }

  std::atomic<uint64_t> held_ = 0, asked_ = 0;
  Executor spared_{Executor::Options{.budget_bytes = 100, .reclaim_spare = [this](uint64_t bytes) { GiveBack(bytes); }}, metrics_};
};

TEST_F(SpareTest, WorkGetsItBack) {
  ASSERT_TRUE(Keep(60));
  uint64_t held = 0;
  EXPECT_EQ(Run(40, &held), absl::OkStatus());
  EXPECT_EQ(held, 60u) << "both fit";
  EXPECT_EQ(Run(55, &held), absl::OkStatus());
  EXPECT_EQ(held, 40u) << "before the work's first step";
  EXPECT_EQ(asked_, 15u);
  EXPECT_EQ(Run(100, &held), absl::OkStatus());
  EXPECT_EQ(held, 0u);
  EXPECT_EQ(Run(0), absl::OkStatus());  // runs when the one before has given back its charge
  EXPECT_TRUE(Keep(100));
}

TEST_F(SpareTest, AReservationGetsItBack) {
  ASSERT_TRUE(Keep(60));
  EXPECT_EQ(spared_.Reserve(40), absl::OkStatus());
  EXPECT_EQ(held_, 60u);
  EXPECT_EQ(spared_.Reserve(50), absl::OkStatus());
  EXPECT_EQ(held_, 10u);
  EXPECT_EQ(spared_.Reserve(11).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(held_, 10u);
}

TEST_F(SpareTest, OnlyWhatNobodyHasIsSpare) {
  ASSERT_EQ(spared_.Reserve(70), absl::OkStatus());
  EXPECT_FALSE(Keep(31));
  EXPECT_TRUE(Keep(20));
  EXPECT_FALSE(Keep(11));
  EXPECT_TRUE(Keep(10));
}

}  // namespace
}  // namespace fluoroscope::sched
