#include "sched/ledger.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::sched {
namespace {

using ::testing::HasSubstr;

WorkInfo Info(const std::string& principal, uint64_t bytes, Priority priority = Priority::kInteractive) {
  return {.principal = principal, .peak_bytes = bytes, .cancel = {}, .priority = priority};
}
QueuedWork Admitted(const WorkInfo& info) { return {.work = nullptr, .info = info, .arrived = {}, .admitted = true}; }

TEST(Ledger, OneMoreThanAPrincipalMayHaveIsRefusedWithBothNumbers) {
  Ledger ledger({.in_flight = 2});
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(ledger.MayEnter(Info("a", 1)).ok());
    ledger.Enter(Info("a", 1));
  }
  const absl::Status refused = ledger.MayEnter(Info("a", 1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("has 2 requests waiting or running and may have at most 2"));
  EXPECT_TRUE(ledger.MayEnter(Info("b", 1)).ok()) << "another one's";
  ledger.Run(Info("a", 1));
  EXPECT_FALSE(ledger.MayEnter(Info("a", 1)).ok()) << "running ones count";
  ledger.Leave(Admitted(Info("a", 1)));
  EXPECT_TRUE(ledger.MayEnter(Info("a", 1)).ok());
}

TEST(Ledger, FurtherWorksOfAPrincipalWaitForItsOwn) {
  Ledger ledger({.running = 2, .bytes = 100});
  for (int i = 0; i < 4; ++i) ledger.Enter(Info("a", 60));
  ledger.Enter(Info("b", 60));
  EXPECT_TRUE(ledger.MayRun(Info("a", 60)));
  ledger.Run(Info("a", 60));
  EXPECT_FALSE(ledger.MayRun(Info("a", 60))) << "120 bytes";
  EXPECT_TRUE(ledger.MayRun(Info("a", 40)));
  EXPECT_TRUE(ledger.MayRun(Info("b", 60)));
  ledger.Run(Info("a", 1));
  EXPECT_FALSE(ledger.MayRun(Info("a", 1))) << "the third at once";
  ledger.Leave(Admitted(Info("a", 60)));
  EXPECT_TRUE(ledger.MayRun(Info("a", 60)));
}

TEST(Ledger, AWorkOverTheQuotaIsRefusedWithBothNumbers) {
  const Ledger ledger({.bytes = 100});
  EXPECT_TRUE(ledger.MayEnter(Info("a", 100)).ok());
  const absl::Status refused = ledger.MayEnter(Info("a", 101));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), testing::AllOf(HasSubstr("101 bytes"), HasSubstr("100 bytes")));
}

TEST(Ledger, BatchWorkLeavesRoomForOthers) {
  Ledger ledger({.batch_running = 2, .batch_bytes = 50});
  for (int i = 0; i < 4; ++i) ledger.Enter(Info("a", 80, Priority::kBatch));
  ledger.Enter(Info("b", 80));
  EXPECT_TRUE(ledger.MayRun(Info("a", 80, Priority::kBatch))) << "a single one may be larger";
  ledger.Run(Info("a", 80, Priority::kBatch));
  EXPECT_FALSE(ledger.MayRun(Info("a", 1, Priority::kBatch)));
  EXPECT_TRUE(ledger.MayRun(Info("b", 80)));
  ledger.Leave(Admitted(Info("a", 80, Priority::kBatch)));
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(ledger.MayRun(Info("a", 10, Priority::kBatch)));
    ledger.Run(Info("a", 10, Priority::kBatch));
  }
  EXPECT_FALSE(ledger.MayRun(Info("a", 10, Priority::kBatch))) << "the third at once";
}

TEST(Ledger, BatchWorkTakesHalfOfWhatReservationsLeave) {
  Ledger ledger({.batch_bytes = 50});  // of a budget of 100
  for (int i = 0; i < 2; ++i) ledger.Enter(Info("a", 20, Priority::kBatch));
  EXPECT_TRUE(ledger.MayRun(Info("a", 20, Priority::kBatch), 90)) << "a single one may be larger";
  ledger.Run(Info("a", 20, Priority::kBatch));
  EXPECT_TRUE(ledger.MayRun(Info("a", 20, Priority::kBatch), 20));
  EXPECT_FALSE(ledger.MayRun(Info("a", 20, Priority::kBatch), 22));
  EXPECT_TRUE(ledger.MayRun(Info("a", 19, Priority::kBatch), 22));
}

TEST(Ledger, TheServersOwnWorkHasNoLimits) {
  Ledger ledger({.in_flight = 1, .running = 1, .bytes = 1});
  WorkInfo own = Info("self-check", 1000);
  own.is_servers = true;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ledger.MayEnter(own).ok());
    ledger.Enter(own);
    ASSERT_TRUE(ledger.MayRun(own));
    ledger.Run(own);
  }
  ledger.Leave(Admitted(own));
}

}  // namespace
}  // namespace fluoroscope::sched
