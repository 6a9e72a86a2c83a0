#include "base/watchdog.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "gtest/gtest.h"
#include "obs/metrics.h"
#include "sched/executor.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using State = Watchdog::State;

TEST(Watchdog, EndsWhatHasBeenStuckForLongWithoutABreak) {
  Watchdog watchdog(seconds(30));
  const Watchdog::Clock::time_point start{seconds(1000)};
  EXPECT_EQ(watchdog.Look(true, start), State::kFine);
  EXPECT_EQ(watchdog.Look(false, start + seconds(1)), State::kStuck);
  EXPECT_EQ(watchdog.Look(false, start + seconds(30)), State::kStuck);
  EXPECT_EQ(watchdog.Look(true, start + seconds(31)), State::kFine) << "it came back by itself";
  EXPECT_EQ(watchdog.Look(false, start + seconds(32)), State::kStuck);
  EXPECT_EQ(watchdog.Look(false, start + seconds(61)), State::kStuck);
  EXPECT_EQ(watchdog.Look(false, start + seconds(62)), State::kEnd);
}

// What main does, with a step that really never ends.
void LookUntilItEnds() {
  obs::Metrics metrics;
  Gate never;
  Executor executor({.budget_bytes = 100, .stuck_after = seconds(0)}, metrics);
  executor.Submit(std::make_shared<ScriptWork>([&](int) {
                    never.Wait();
                    return Work::Progress::kDone;
                  }),
                  {.principal = "p", .peak_bytes = 1, .cancel = {}});
  Watchdog watchdog(milliseconds(1));
  bool was_stuck = false;
  for (;;) {
    const State state = watchdog.Look(executor.Healthy());
    was_stuck = was_stuck || state == State::kStuck;
    if (state != State::kEnd) continue;
    std::fprintf(stderr, was_stuck ? "stuck, then ended" : "ended at once");
    std::abort();
  }
}

TEST(WatchdogDeathTest, AStepThatNeverEndsEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(LookUntilItEnds(), testing::KilledBySignal(SIGABRT), "stuck, then ended");
}

}  // namespace
}  // namespace fluoroscope::sched
