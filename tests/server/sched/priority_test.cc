// Interactive work goes first, and batch work is put off but not starved: in the queue and in the turns.
#include <string>

#include "gtest/gtest.h"
#include "sched/running_set.h"
#include "sched/work_queue.h"
#include "tests/server/sched/queued.h"

namespace fluoroscope::sched {
namespace {

QueuedWork Make(const std::string& principal, Priority priority, uint64_t bytes = 1) {
  return Queued(principal, bytes, Clock::time_point::max(), priority);
}

std::string PopAll(WorkQueue& queue, uint64_t free_bytes, uint64_t running_bytes = 0) {
  std::string order;
  while (std::optional<QueuedWork> work = queue.PopNext(free_bytes, running_bytes)) order += work->info.principal;
  return order;
}

TEST(Priority, EveryFifthOfTheQueueIsABatchWork) {
  WorkQueue queue(100);
  for (int i = 0; i < 3; ++i) queue.Push(Make("b", Priority::kBatch));
  for (int i = 0; i < 9; ++i) queue.Push(Make("i", Priority::kInteractive));
  EXPECT_EQ(queue.size(), 12U);
  EXPECT_EQ(PopAll(queue, 1000), "iiiibiiiibib");
}

TEST(Priority, BatchWorkThatDoesNotFitIsPassedForAWhileOnly) {
  WorkQueue queue(1000);
  queue.Push(Make("b", Priority::kBatch, 50));
  for (int i = 0; i < 100; ++i) queue.Push(Make("i", Priority::kInteractive));
  // 10 bytes are free, and 50 running ones come back.
  EXPECT_EQ(PopAll(queue, 10, 50), std::string(WorkQueue::kMostPassed, 'i'));
  EXPECT_EQ(PopAll(queue, 60), "b" + std::string(100 - WorkQueue::kMostPassed, 'i'));
}

TEST(Priority, BatchWorkDoesNotPassAnInteractiveOneThatWaitsForMemory) {
  WorkQueue queue(1000);
  queue.Push(Make("b", Priority::kBatch));
  queue.Push(Make("i", Priority::kInteractive, 50));
  EXPECT_EQ(PopAll(queue, 10, 50), "");
  EXPECT_EQ(PopAll(queue, 50), "ib");
}

TEST(Priority, EveryFifthTurnIsABatchWorks) {
  RunningSet set;
  set.Admit(Make("b", Priority::kBatch));
  for (const char* name : {"x", "y"}) set.Admit(Make(name, Priority::kInteractive));
  std::string order;
  for (int i = 0; i < 12; ++i) {
    order += set.Front().info.principal;
    set.EndTurn();
  }
  EXPECT_EQ(order, "xyxybxyxybxy");
}

TEST(Priority, BatchWorkByItselfHasAllTurns) {
  RunningSet set;
  for (const char* name : {"b", "c"}) set.Admit(Make(name, Priority::kBatch));
  std::string order;
  for (int i = 0; i < 4; ++i) {
    order += set.Front().info.principal;
    set.EndTurn();
  }
  set.Admit(Make("i", Priority::kInteractive));
  EXPECT_EQ(order + set.Front().info.principal, "bcbci");
}

TEST(Priority, ManyWorksOfOnePrincipalHaveTheTurnsOfOne) {
  RunningSet set;
  for (int i = 0; i < 5; ++i) set.Admit(Make("a", Priority::kInteractive));
  set.Admit(Make("b", Priority::kInteractive));
  std::string order;
  for (int i = 0; i < 6; ++i) {
    order += set.Front().info.principal;
    set.EndTurn();
  }
  EXPECT_EQ(order, "ababab");
}

TEST(Priority, TheWorksOfAPrincipalTakeTurns) {
  RunningSet set;
  for (int i = 0; i < 2; ++i) set.Admit(Make("a", Priority::kInteractive));
  const Work* first = set.Front().work.get();
  set.EndTurn();
  EXPECT_NE(set.Front().work.get(), first);
  set.EndTurn();
  EXPECT_EQ(set.Front().work.get(), first);
}

}  // namespace
}  // namespace fluoroscope::sched
