// Runs that share a model's pool: what one does, or what goes wrong in it, is not seen in another.
#include "generate/decode_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/generate/generating_runs.h"

namespace fluoroscope::generate {
namespace {

using DecodePoolTest = GeneratingRuns;

TEST_F(DecodePoolTest, RunsTogetherGiveWhatTheyGiveAlone) {
  const std::vector<int64_t> first = Alone({1, 2, 3}, 20), second = Alone({5, 4}, 9);
  EXPECT_EQ(first.size(), 20u);
  EXPECT_EQ(second.size(), 9u);
  Run a = Start({1, 2, 3}, 20), b = Start({5, 4}, 9), c = Start({1, 2, 3}, 20);
  Finish({&a, &b, &c});
  EXPECT_EQ(a.sink->ids, first);
  EXPECT_EQ(b.sink->ids, second);
  EXPECT_EQ(c.sink->ids, first);
}

TEST_F(DecodePoolTest, ASlowReaderIsParkedAndGoesOn) {
  Run a = Start({1, 2, 3}, 6);
  a.sink->slow = true;
  int parked = 0;
  while (!a.done) {
    if (a.Step() != Progress::kBlocked) continue;
    ++parked;
    EXPECT_EQ(a.Step(), Progress::kBlocked) << "nobody has read";
    a.run->OnDrained();
  }
  EXPECT_GE(parked, 5);
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 6));
}

TEST_F(DecodePoolTest, ASlowReaderDoesNotHoldUpTheOthers) {
  Run a = Start({1, 2, 3}, 20), b = Start({5, 4}, 20);
  a.sink->slow = true;
  while (a.Step() != Progress::kBlocked) {
  }
  Finish({&b});
  EXPECT_EQ(b.sink->ids, Alone({5, 4}, 20));
  EXPECT_LT(a.sink->ids.size(), 5u) << "it sat out";
  a.sink->slow = false;
  a.run->OnDrained();
  Finish({&a});
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 20));
}

TEST_F(DecodePoolTest, AFailingRunFailsAlone) {
  // An edit that no builder lets through: its tensor does not fit the site.
  const auto break_it = [](GeneratePlan& plan) {
    run::EditPlan edit;
    edit.place = {model::Site::kResidPost, 1, {0}, {}, {}};
    edit.edit = intervention::Add{at::ones({3})};
    plan.continuations.front().edits.push_back(edit);
  };
  Run a = Start({1, 2, 3}, 20), bad = Start({7}, 20, break_it), b = Start({5, 4}, 9);
  Finish({&a, &bad, &b});
  EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kInternal) << *bad.sink->status;
  EXPECT_EQ(bad.sink->ids.size(), 1u) << "the prompt's run is not edited";
  EXPECT_TRUE(a.sink->status->ok() && b.sink->status->ok());
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 20));
  EXPECT_EQ(b.sink->ids, Alone({5, 4}, 9));
}

TEST_F(DecodePoolTest, ARowWhoseNumbersOverflowFailsAlone) {
  const auto blow_up = [](GeneratePlan& plan) {
    run::EditPlan edit;
    edit.place = {model::Site::kResidPost, 1, {0}, {}, {}};
    edit.edit = intervention::Scale{1e38};
    plan.continuations.front().edits.assign(2, edit);
  };
  Run a = Start({1, 2, 3}, 20), bad = Start({7}, 20, blow_up);
  Finish({&a, &bad});
  EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kInvalidArgument) << *bad.sink->status;
  EXPECT_THAT(std::string(bad.sink->status->message()), testing::HasSubstr("prompts[0]: the logits of token 1 are not finite"));
  EXPECT_EQ(a.sink->ids, Alone({1, 2, 3}, 20));
}

TEST_F(DecodePoolTest, ACancelledRunLeavesTheOthersAlone) {
  Run a = Start({1, 2, 3}, 20), b = Start({5, 4}, 9);
  b.sink->slow = true;
  b.Step();
  a.sink->slow = true;
  a.Step();
  b.sink->slow = a.sink->slow = false;
  a.run->OnDrained();
  b.run->OnDrained();
  a.run->Abort(absl::CancelledError("gone"));
  a.run.reset();
  Finish({&b});
  EXPECT_EQ(a.sink->status->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(b.sink->ids, Alone({5, 4}, 9));
}

}  // namespace
}  // namespace fluoroscope::generate
