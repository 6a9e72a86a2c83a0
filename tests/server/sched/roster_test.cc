#include "sched/roster.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "obs/metrics.h"
#include "sched/executor.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

TEST(Roster, ListsRunningWorksBeforeWaitingOnesInOrderOfArrival) {
  Roster roster;
  std::vector<QueuedWork> works;
  for (const char* name : {"a", "b", "c", "own"}) {
    works.push_back({.work = std::make_shared<ScriptWork>([](int) { return Work::Progress::kDone; }),
                     .info = {.principal = name, .peak_bytes = 7, .cancel = {}, .priority = Priority::kBatch, .flops = 3},
                     .arrived = {}});
    works.back().info.is_servers = works.back().info.principal == "own";
    roster.Enter(works.back());
  }
  roster.Run(works[3].work.get());
  roster.Run(works[1].work.get());
  const std::vector<WorkView> views = roster.works();
  ASSERT_EQ(views.size(), 3U) << "the server's own is nobody's business";
  EXPECT_EQ(views[0].principal + views[1].principal + views[2].principal, "bac");
  EXPECT_TRUE(views[0].running && !views[1].running);
  EXPECT_EQ(views[0].peak_bytes, 7U);
  EXPECT_EQ(views[0].flops, 3);
  EXPECT_EQ(views[0].priority, Priority::kBatch);
  for (const QueuedWork& work : works) roster.Leave(work.work.get());
  EXPECT_TRUE(roster.works().empty());
  EXPECT_EQ(roster.finished(), 3U);
}

TEST(Roster, AnExecutorSaysWhatItHas) {
  obs::Metrics metrics;
  Executor executor({.budget_bytes = 100}, metrics);
  Gate begun, end;
  executor.Submit(std::make_shared<ScriptWork>([&](int) {
                    begun.Open();
                    end.Wait();
                    return Work::Progress::kDone;
                  }),
                  {.principal = "runs", .peak_bytes = 60, .cancel = {}});
  begun.Wait();
  executor.Submit(std::make_shared<ScriptWork>([](int) { return Work::Progress::kDone; }),
                  {.principal = "waits", .peak_bytes = 60, .cancel = {}});
  const Executor::Status status = executor.GetStatus();
  end.Open();
  ASSERT_EQ(status.works.size(), 2U);
  EXPECT_EQ(status.works[0].principal, "runs");
  EXPECT_TRUE(status.works[0].running);
  EXPECT_EQ(status.works[1].principal, "waits");
  EXPECT_FALSE(status.works[1].running);
  executor.Drain(std::chrono::seconds(30));
  EXPECT_EQ(executor.GetStatus().finished, 2U);
}

}  // namespace
}  // namespace fluoroscope::sched
