#include "jobs/job.h"

#include <array>

#include "gtest/gtest.h"

namespace fluoroscope::jobs {
namespace {

constexpr std::array kAll = {JobState::kQueued, JobState::kRunning, JobState::kDone, JobState::kFailed, JobState::kCancelled};

TEST(JobState, AnEndIsAnEnd) {
  for (const JobState from : kAll) {
    for (const JobState to : kAll) {
      EXPECT_FALSE(IsEnd(from) && MayBecome(from, to));
    }
  }
}

TEST(JobState, EveryStateThatIsNoEndCanReachOne) {
  for (const JobState end : {JobState::kDone, JobState::kFailed, JobState::kCancelled}) {
    EXPECT_TRUE(IsEnd(end));
    EXPECT_TRUE(MayBecome(JobState::kRunning, end));
  }
  EXPECT_TRUE(MayBecome(JobState::kQueued, JobState::kRunning));
  EXPECT_TRUE(MayBecome(JobState::kQueued, JobState::kCancelled));
  EXPECT_TRUE(MayBecome(JobState::kQueued, JobState::kFailed));
}

TEST(JobState, ARestartPutsARunningJobBackInTheQueueAndNothingIsDoneWithoutRunning) {
  EXPECT_TRUE(MayBecome(JobState::kRunning, JobState::kQueued));
  EXPECT_FALSE(MayBecome(JobState::kQueued, JobState::kDone));
  EXPECT_FALSE(MayBecome(JobState::kQueued, JobState::kQueued));
  EXPECT_FALSE(MayBecome(JobState::kRunning, JobState::kRunning));
}

}  // namespace
}  // namespace fluoroscope::jobs
