#include "sched/work_queue.h"

#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/sched/queued.h"

namespace fluoroscope::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NamedWork final : public NoWork {
 public:
  explicit NamedWork(std::string name) : name(std::move(name)) {}
  const std::string name;
};

QueuedWork Make(const std::string& principal, int number, uint64_t bytes = 1, Clock::time_point deadline = Clock::time_point::max()) {
  return Queued(principal, bytes, deadline, Priority::kInteractive, std::make_shared<NamedWork>(principal + std::to_string(number)));
}

std::string Name(const QueuedWork& work) { return static_cast<const NamedWork&>(*work.work).name; }

constexpr uint64_t kAllFree = 1000;

std::vector<std::string> PopAll(WorkQueue& queue, uint64_t free_bytes = kAllFree, uint64_t running_bytes = 0) {
  std::vector<std::string> names;
  while (std::optional<QueuedWork> work = queue.PopNext(free_bytes, running_bytes)) names.push_back(Name(*work));
  return names;
}

TEST(WorkQueue, OnePrincipalIsServedInOrderOfArrival) {
  WorkQueue queue(100);
  for (int i = 0; i < 4; ++i) queue.Push(Make("a", i));
  EXPECT_EQ(queue.size(), 4U);
  EXPECT_THAT(PopAll(queue), ElementsAre("a0", "a1", "a2", "a3"));
  EXPECT_EQ(queue.size(), 0U);
}

TEST(WorkQueue, PrincipalsTakeTurnsInOrderOfArrival) {
  WorkQueue queue(100);
  for (int i = 0; i < 4; ++i) queue.Push(Make("a", i));
  queue.Push(Make("b", 0));
  queue.Push(Make("c", 0));
  queue.Push(Make("c", 1));
  EXPECT_THAT(PopAll(queue), ElementsAre("a0", "b0", "c0", "a1", "c1", "a2", "a3"));
}

TEST(WorkQueue, OneThatComesBackAtOnceDoesNotPassThoseWhoWait) {
  WorkQueue queue(100);
  for (int i = 0; i < 3; ++i) queue.Push(Make("a", i));
  queue.Push(Make("b", 0));
  std::vector<std::string> order;
  for (int i = 1; i < 6; ++i) {
    const std::optional<QueuedWork> work = queue.PopNext(kAllFree, 0);
    ASSERT_TRUE(work.has_value());
    order.push_back(Name(*work));
    if (work->info.principal == "b") queue.Push(Make("b", i));
  }
  EXPECT_THAT(order, ElementsAre("a0", "b0", "a1", "b2", "a2"));
}

TEST(WorkQueue, ALargeWorkCostsItsPrincipalFurtherTurns) {
  WorkQueue queue(100);
  queue.Push(Make("big", 0, 300));  // three shares: three further turns
  queue.Push(Make("big", 1, 300));
  for (int i = 0; i < 5; ++i) queue.Push(Make("small", i, 10));
  EXPECT_THAT(PopAll(queue), ElementsAre("big0", "small0", "small1", "small2", "small3", "big1", "small4"));
}

TEST(WorkQueue, TurnsOwedAreNotForgottenByComingBackLater) {
  WorkQueue queue(100);
  queue.Push(Make("big", 0, 200));
  for (int i = 0; i < 4; ++i) queue.Push(Make("small", i));
  EXPECT_EQ(Name(*queue.PopNext(kAllFree, 0)), "big0");  // its line is empty now
  queue.Push(Make("big", 1, 200));
  EXPECT_THAT(PopAll(queue), ElementsAre("small0", "small1", "small2", "big1", "small3"));
}

TEST(WorkQueue, AloneALargeWorkWaitsForNobody) {
  WorkQueue queue(100);
  for (int i = 0; i < 3; ++i) queue.Push(Make("big", i, 1000));
  EXPECT_THAT(PopAll(queue), ElementsAre("big0", "big1", "big2"));
}

TEST(WorkQueue, WhatRunsWillEndSoNobodyPassesTheFirstInTurn) {
  WorkQueue queue(1000);
  queue.Push(Make("big", 0, 80));
  queue.Push(Make("small", 0, 1));
  EXPECT_THAT(PopAll(queue, 20, 60), IsEmpty());  // 20 free and 60 running: enough soon
  EXPECT_THAT(PopAll(queue, 80, 0), ElementsAre("big0", "small0"));
}

TEST(WorkQueue, WhatIsParkedMayNeverEndSoOthersGoAhead) {
  WorkQueue queue(1000);
  queue.Push(Make("big", 0, 80));
  queue.Push(Make("big", 1, 1));  // behind its own principal's first: stays behind
  queue.Push(Make("small", 0, 1));
  queue.Push(Make("small", 1, 1));
  EXPECT_THAT(PopAll(queue, 20, 59), ElementsAre("small0", "small1"));
  EXPECT_EQ(queue.size(), 2U);
  queue.Push(Make("small", 2, 1));
  EXPECT_THAT(PopAll(queue, 80, 0), ElementsAre("big0", "small2", "big1"));  // it kept its turn
}

TEST(WorkQueue, RemoveTakesOutOnlyWhatEnded) {
  WorkQueue queue(100);
  for (int i = 0; i < 3; ++i) queue.Push(Make("a", i));
  queue.Push(Make("b", 0));
  const std::vector<QueuedWork> removed = queue.Remove([](const QueuedWork& work) { return Name(work) == "a1" || Name(work) == "b0"; });
  ASSERT_EQ(removed.size(), 2U);
  EXPECT_EQ(Name(removed[0]), "a1");
  EXPECT_EQ(Name(removed[1]), "b0");
  EXPECT_EQ(queue.size(), 2U);
  EXPECT_THAT(PopAll(queue), ElementsAre("a0", "a2"));
}

TEST(WorkQueue, NextDeadlineIsTheEarliestOfAll) {
  WorkQueue queue(100);
  EXPECT_EQ(queue.NextDeadline(), Clock::time_point::max());
  const Clock::time_point base{std::chrono::hours(1)};
  queue.Push(Make("a", 0, 1, base + std::chrono::seconds(9)));
  queue.Push(Make("a", 1, 1, base + std::chrono::seconds(3)));
  queue.Push(Make("b", 0));
  EXPECT_EQ(queue.NextDeadline(), base + std::chrono::seconds(3));
}

TEST(WorkQueue, ComputationCostsTurnsToo) {
  WorkQueue queue(100, 1e9);
  for (int i = 0; i < 2; ++i) {
    QueuedWork heavy = Make("heavy", i);
    heavy.info.flops = 2.5e9;  // two shares and a half: two further turns
    queue.Push(std::move(heavy));
  }
  for (int i = 0; i < 4; ++i) queue.Push(Make("light", i));
  EXPECT_THAT(PopAll(queue), ElementsAre("heavy0", "light0", "light1", "light2", "heavy1", "light3"));
}

TEST(WorkQueue, WhoMayNotRunYetIsPassed) {
  WorkQueue queue(100);
  for (const char* name : {"a", "b"}) {
    for (int i = 0; i < 2; ++i) queue.Push(Make(name, i));
  }
  const auto not_a = [](const WorkInfo& info) { return info.principal != "a"; };
  EXPECT_EQ(Name(*queue.PopNext(kAllFree, 0, not_a)), "b0");
  EXPECT_EQ(Name(*queue.PopNext(kAllFree, 0, not_a)), "b1");
  EXPECT_FALSE(queue.PopNext(kAllFree, 0, not_a).has_value());
  EXPECT_THAT(PopAll(queue), ElementsAre("a0", "a1"));
}

TEST(WorkQueue, TheLargestSizesDoNotOverflow) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  WorkQueue queue(0);  // no budget: shares of one byte
  queue.Push(Make("a", 0, kMost));
  EXPECT_FALSE(queue.PopNext(kMost - 1, 0).has_value());
  EXPECT_TRUE(queue.PopNext(kMost, kMost).has_value());
  EXPECT_FALSE(queue.PopNext(kMost, kMost).has_value());
}

}  // namespace
}  // namespace fluoroscope::sched
