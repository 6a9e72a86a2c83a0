// Many threads at once, everything at random: every work ends exactly once, nothing is lost and all bytes come back.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "sched/executor.h"
#include "tests/server/sched/metric_value.h"
#include "tests/server/sched/script_work.h"

namespace fluoroscope::sched {
namespace {

using Progress = Work::Progress;

constexpr int kThreads = 6;
constexpr int kWorksPerThread = 300;

struct Tally {
  std::atomic<int> ok = 0, cancelled = 0, late = 0, refused = 0, unavailable = 0, internal = 0, other = 0;
  int total() const { return ok + cancelled + late + refused + unavailable + internal + other; }

  void Count(const absl::Status& status) {
    switch (status.code()) {
      case absl::StatusCode::kOk:
        ++ok;
        break;
      case absl::StatusCode::kCancelled:
        ++cancelled;
        break;
      case absl::StatusCode::kDeadlineExceeded:
        ++late;
        break;
      case absl::StatusCode::kResourceExhausted:
        ++refused;
        break;
      case absl::StatusCode::kUnavailable:
        ++unavailable;
        break;
      case absl::StatusCode::kInternal:
        ++internal;
        break;
      default:
        ++other;
    }
  }
};

// Submits works that block (and are resumed by a helper at any moment), are cancelled, are late, throw, or are simply done.
void SubmitMany(Executor& executor, int seed, Tally& tally) {
  std::mt19937 random(static_cast<unsigned>(seed));
  const auto draw = [&random](int below) { return static_cast<int>(random() % static_cast<unsigned>(below)); };
  std::vector<std::pair<std::shared_ptr<ScriptWork>, std::future<absl::Status>>> open;
  for (int i = 0; i < kWorksPerThread; ++i) {
    const int steps = 1 + draw(8), block_at = draw(12), throw_at = draw(40);
    auto work = MakeWork([=](int step) -> Progress {
      if (step == throw_at) throw std::runtime_error("drawn");
      if (step + 1 >= steps) return Progress::kDone;
      return step == block_at ? Progress::kBlocked : Progress::kMore;
    });
    WorkInfo info{.principal = std::to_string(draw(5)), .peak_bytes = static_cast<uint64_t>(draw(110)), .cancel = {}};
    CancelToken cancel = info.cancel;
    if (draw(10) == 0) info.deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(draw(2000));
    open.emplace_back(work, work->end());
    executor.Submit(std::move(work), std::move(info));
    if (draw(5) == 0) {
      cancel.Cancel();
      if (draw(2) == 0) executor.Poke();
    }
    if (draw(3) == 0) executor.Resume(open[static_cast<size_t>(draw(static_cast<int>(open.size())))].first.get());
  }
  // Whatever is still blocked is resumed until all have ended; all of them, since a blocked one may hold the bytes another waits for.
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (!open.empty() && std::chrono::steady_clock::now() < give_up) {
    std::erase_if(open, [&](auto& one) {
      executor.Resume(one.first.get());
      if (one.second.wait_for(std::chrono::microseconds(100)) != std::future_status::ready) return false;
      tally.Count(one.second.get());
      return true;
    });
  }
  EXPECT_TRUE(open.empty()) << open.size() << " works never ended";
}

TEST(ExecutorStress, EveryWorkEndsOnceAndAllBytesComeBack) {
  obs::Metrics metrics;
  Tally tally;
  Executor executor({.max_waiting = 64, .budget_bytes = 100, .max_running = 8}, metrics);
  {
    std::vector<std::jthread> threads;
    for (int seed = 0; seed < kThreads; ++seed) threads.emplace_back([&, seed] { SubmitMany(executor, seed, tally); });
  }
  executor.Drain(kPatience);
  EXPECT_EQ(tally.total(), kThreads * kWorksPerThread);
  EXPECT_GT(tally.ok, 0);
  EXPECT_GT(tally.cancelled, 0);
  EXPECT_GT(tally.refused, 0);
  EXPECT_GT(tally.internal, 0);
  EXPECT_EQ(tally.unavailable, 0);
  EXPECT_EQ(tally.other, 0);
  EXPECT_EQ(MetricValue(metrics, "fluoroscope_admitted_bytes"), 0);
  EXPECT_EQ(MetricValue(metrics, "fluoroscope_queue_depth"), 0);
  EXPECT_EQ(Rejections(metrics, "cancelled"), tally.cancelled);
  EXPECT_EQ(Rejections(metrics, "deadline"), tally.late);
  EXPECT_EQ(Rejections(metrics, "queue_full") + Rejections(metrics, "over_budget"), tally.refused);
  EXPECT_TRUE(executor.Healthy());
}

TEST(ExecutorStress, DrainInTheMiddleOfEverything) {
  obs::Metrics metrics;
  Tally tally;
  Executor executor({.max_waiting = 64, .budget_bytes = 100}, metrics);
  {
    std::vector<std::jthread> threads;
    for (int seed = 0; seed < kThreads; ++seed) threads.emplace_back([&, seed] { SubmitMany(executor, 100 + seed, tally); });
    while (tally.total() == 0 && MetricValue(metrics, "fluoroscope_queue_wait_seconds_count") < 20) std::this_thread::yield();
    executor.Drain(std::chrono::milliseconds(1));
    EXPECT_EQ(MetricValue(metrics, "fluoroscope_admitted_bytes"), 0);
  }
  EXPECT_EQ(tally.total(), kThreads * kWorksPerThread);
  EXPECT_GT(tally.unavailable, 0);
  EXPECT_EQ(tally.other, 0);
}

TEST(ExecutorStress, ManyShortLives) {
  obs::Metrics metrics;
  for (int i = 0; i < 200; ++i) {
    const auto work = MakeWork([](int) { return Progress::kMore; });
    auto end = work->end();
    {
      Executor executor({.budget_bytes = 1}, metrics);
      executor.Submit(work, {.principal = "p", .peak_bytes = 1, .cancel = {}});
    }
    EXPECT_TRUE(absl::IsUnavailable(Get(end)));
  }
}

}  // namespace
}  // namespace fluoroscope::sched
