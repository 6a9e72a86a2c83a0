#include "sched/running_set.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/sched/queued.h"

namespace fluoroscope::sched {
namespace {

TEST(RunningSet, WorksTakeTurns) {
  RunningSet set;
  for (const char* name : {"a", "b", "c"}) set.Admit(Queued(name, 1));
  std::string order;
  for (int i = 0; i < 6; ++i) {
    order += set.Front().info.principal;
    set.EndTurn();
  }
  EXPECT_EQ(order, "abcabc");
}

TEST(RunningSet, AParkedWorkKeepsItsChargeAndHasNoTurns) {
  RunningSet set;
  set.Admit(Queued("a", 10));
  set.Admit(Queued("b", 5));
  const Work* a = set.Front().work.get();
  set.Park();
  EXPECT_EQ(set.runnable(), 1U);
  EXPECT_EQ(set.charged_bytes(), 15U);
  EXPECT_EQ(set.parked_bytes(), 10U);
  const NoWork stranger;
  set.Unpark({&stranger, set.Front().work.get()});  // neither is parked
  EXPECT_EQ(set.runnable(), 1U);
  set.Unpark({a});
  EXPECT_EQ(set.runnable(), 2U);
  EXPECT_EQ(set.parked_bytes(), 0U);
  EXPECT_EQ(set.charged_bytes(), 15U);
  EXPECT_EQ(set.Front().info.principal, "b");  // behind those that were running
}

TEST(RunningSet, TakingOutGivesNothingBackBeforeRelease) {
  RunningSet set;
  set.Admit(Queued("a", 10));
  set.Admit(Queued("b", 5));
  set.Park();
  EXPECT_EQ(set.TakeFront().info.principal, "b");
  EXPECT_EQ(set.charged_bytes(), 15U);
  const std::vector<QueuedWork> removed = set.Remove([](const QueuedWork&) { return true; });
  ASSERT_EQ(removed.size(), 1U);
  EXPECT_EQ(set.parked_bytes(), 0U);
  EXPECT_EQ(set.charged_bytes(), 15U);
  set.Release(5);
  set.Release(10);
  EXPECT_EQ(set.charged_bytes(), 0U);
}

TEST(RunningSet, NextDeadlineCountsTheParkedToo) {
  RunningSet set;
  EXPECT_EQ(set.NextDeadline(), Clock::time_point::max());
  const Clock::time_point early{std::chrono::seconds(1)}, late{std::chrono::seconds(2)};
  set.Admit(Queued("a", 1, early));
  set.Admit(Queued("b", 1, late));
  set.Park();
  EXPECT_EQ(set.NextDeadline(), early);
  (void)set.Remove([&](const QueuedWork& work) { return work.info.deadline == early; });
  EXPECT_EQ(set.NextDeadline(), late);
}

}  // namespace
}  // namespace fluoroscope::sched
