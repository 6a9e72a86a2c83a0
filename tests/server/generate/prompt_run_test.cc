// Prompts of several generations in one batch, and behind what earlier ones have left.
#include "generate/prompt_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/generate/generating_runs.h"

namespace fluoroscope::generate {
namespace {

using ::testing::HasSubstr;

class PromptRunTest : public GeneratingRuns {
 protected:
  // An edit that no builder lets through: its tensor does not fit the site.
  static void Break(GeneratePlan& plan) {
    run::EditPlan edit;
    edit.place = {model::Site::kResidPost, 1, {0}, {}, {}};
    edit.edit = intervention::Add{at::ones({3})};
    plan.prompts.rows.front().edits.push_back(edit);
  }
};

TEST_F(PromptRunTest, PromptsThatWaitTogetherRunTogether) {
  const std::vector<int64_t> first = Alone({1, 2, 3}, 5), second = Alone({5, 4, 3, 2}, 5);
  Run a = Start({1, 2, 3}, 5), b = Start({5, 4, 3, 2}, 5), c = Start({1, 2, 3}, 5);
  for (Run* run : {&a, &b, &c}) run->run->Admitted();
  const std::string before = metrics_.Serialize();
  EXPECT_THAT(before, HasSubstr("fluoroscope_batch_requests_count{model=\"tiny\"} 2\n")) << "the two alone";
  Finish({&a, &b, &c});
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_batch_requests_count{model=\"tiny\"} 3\n"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_batch_requests_sum{model=\"tiny\"} 5\n"));
  EXPECT_EQ(a.sink->ids, first);
  EXPECT_EQ(b.sink->ids, second);
  EXPECT_EQ(c.sink->ids, first);
  EXPECT_EQ(a.sink->summary.tokens, 3u + 4u);
}

TEST_F(PromptRunTest, AFailingPromptFailsAlone) {
  Run a = Start({1, 2, 3}, 5), bad = Start({7, 8}, 5, Break), b = Start({5, 4}, 5);
  for (Run* run : {&a, &bad, &b}) run->run->Admitted();
  Finish({&a, &bad, &b});
  EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kInternal) << *bad.sink->status;
  EXPECT_TRUE(bad.sink->ids.empty());
  EXPECT_TRUE(a.sink->status->ok() && b.sink->status->ok());
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 5));
  EXPECT_EQ(b.sink->ids, Alone({5, 4}, 5));
}

TEST_F(PromptRunTest, ACancelledPromptLeavesTheBatch) {
  Run a = Start({1, 2, 3}, 5), gone = Start({7, 8}, 5), waits = Start({9}, 5);
  for (Run* run : {&a, &gone}) run->run->Admitted();
  gone.run->Abort(absl::CancelledError("gone"));
  gone.run.reset();
  waits.run->Admitted();
  waits.run->Abort(absl::CancelledError("gone"));
  waits.run.reset();
  Finish({&a});
  EXPECT_EQ(gone.sink->status->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 5));
}

TEST_F(PromptRunTest, WhatIsKnownIsNotRun) {
  PrefixCache cache({.max_bytes = 1 << 20}, metrics_);
  const std::vector<int64_t> ids = engine::RandomIds(20, 40);
  const std::vector<int64_t> expected = Alone(ids, 6);
  Run first = Start(ids, 6, {}, PrefixUse(cache, "me"));
  Finish({&first});
  EXPECT_EQ(first.sink->summary.reused_tokens, 0u);
  Run again = Start(ids, 6, {}, PrefixUse(cache, "me")), other = Start(ids, 6, {}, PrefixUse(cache, "you"));
  for (Run* run : {&again, &other}) run->run->Admitted();
  Finish({&again, &other});
  EXPECT_EQ(again.sink->summary.reused_tokens, 32u);
  EXPECT_EQ(again.sink->summary.tokens, 8u + 5u);
  EXPECT_EQ(other.sink->summary.reused_tokens, 0u);
  for (const Run* run : {&first, &again, &other}) EXPECT_EQ(run->sink->ids, expected);
}

TEST_F(PromptRunTest, AFailedGenerationLeavesNothing) {
  PrefixCache cache({.max_bytes = 1 << 20}, metrics_);
  Run bad = Start(engine::RandomIds(20, 40), 6, Break, PrefixUse(cache, "me"));
  Finish({&bad});
  EXPECT_FALSE(bad.sink->status->ok());
  EXPECT_EQ(cache.bytes(), 0u);
}

}  // namespace
}  // namespace fluoroscope::generate
