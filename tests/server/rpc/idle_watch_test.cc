// Who is watched is looked at when it is due, and no more when it has ended or gone.
#include "rpc/idle_watch.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <future>

#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using std::chrono::steady_clock;

class Scripted final : public Watched {
 public:
  explicit Scripted(std::function<TimePoint(TimePoint)> look) : look_(std::move(look)) {}
  TimePoint LookIfIdle(TimePoint now) override { return look_(now); }

 private:
  const std::function<TimePoint(TimePoint)> look_;
};

TEST(IdleWatchTest, LooksAgainUntilItIsOver) {
  IdleWatch watch;
  std::promise<int> over;
  int looks = 0;
  const steady_clock::time_point due = steady_clock::now() + std::chrono::milliseconds(5);
  const auto watched = std::make_shared<Scripted>([&](Watched::TimePoint now) {
    EXPECT_GE(now, due);
    if (++looks < 3) return now + std::chrono::milliseconds(1);
    over.set_value(looks);
    return Watched::TimePoint::max();
  });
  watch.Add(watched, due);
  EXPECT_EQ(over.get_future().get(), 3);
}

TEST(IdleWatchTest, TheEarliestIsFirstAndWhoHasGoneIsNotLookedAt) {
  IdleWatch watch;
  std::promise<void> looked;
  const auto far = std::make_shared<Scripted>([](Watched::TimePoint) {
    ADD_FAILURE() << "not due";
    return Watched::TimePoint::max();
  });
  watch.Add(far, steady_clock::now() + std::chrono::hours(1));
  std::atomic<bool> gone = false;  // on a busy machine it may be looked at just before
  watch.Add(std::make_shared<Scripted>([&](Watched::TimePoint) {
              EXPECT_FALSE(gone) << "it has gone";
              return Watched::TimePoint::max();
            }),
            steady_clock::now() + std::chrono::milliseconds(1));
  gone = true;
  const auto near = std::make_shared<Scripted>([&](Watched::TimePoint) {
    looked.set_value();
    return Watched::TimePoint::max();
  });
  watch.Add(near, steady_clock::now() + std::chrono::milliseconds(5));
  looked.get_future().get();
}

}  // namespace
}  // namespace fluoroscope::rpc
