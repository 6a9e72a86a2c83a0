// Many users in one batch: each gets what it would get alone.
#include "run/batch_pool.h"

#include "tests/server/run/pooled_run.h"

namespace fluoroscope::run {
namespace {

class BatchPoolTest : public PoolFixture {
 protected:
  // Seven users who want different things, in one to three waves.
  std::vector<api::ForwardRequest> Users() const {
    std::vector<api::ForwardRequest> users;
    api::ForwardRequest& looks = users.emplace_back(Request({5, 9}));
    looks.captures = {engine::CaptureOf({"*"})};
    looks.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};

    api::ForwardRequest& scales = users.emplace_back(Request({9}));
    scales.interventions = {EditOf({"blocks.*.hook_mlp_out", "blocks.1.attn.hook_pattern"}, api::Scale{0.5})};
    scales.captures = {engine::CaptureOf({"blocks.2.hook_resid_post"})};
    scales.captures[0].reduction = api::ReduceLens{3, {}};
    scales.logits = api::LogitsRequest{{}, {int64_t{3}, int64_t{8}}, 0, {}};

    api::ForwardRequest& patches = users.emplace_back(Request({7, 7}));
    patches.interventions = {EditOf({"blocks.1.attn.hook_z"}, api::CopyFromRow{0, std::nullopt}, {1})};
    patches.metrics = {{"kl", {1}, std::nullopt, api::ToReference{api::ToReference::Measure::kKl, 0, std::nullopt}},
                       {"d", {}, std::nullopt, api::LogitDifference{{int64_t{3}}, {int64_t{8}}}}};

    api::ForwardRequest& compares = users.emplace_back(Request({4, 4, 4}));
    compares.interventions = {EditOf({"blocks.0.hook_resid_pre"}, api::Noise{0.1, 7}, {2})};
    compares.metrics = {{"js", {2}, std::nullopt, api::ToReference{api::ToReference::Measure::kJs, 1, std::nullopt}},
                        {"rank", {}, std::nullopt, api::Rank{int64_t{5}}}};

    api::ForwardRequest& stops = users.emplace_back(Request({14, 1}));
    stops.captures = {engine::CaptureOf({"blocks.0.attn.hook_z", "hook_embed"})};

    api::ForwardRequest& best = users.emplace_back(Request({3, 12}));
    best.interventions = {EditOf({"blocks.2.hook_resid_mid"}, api::Zero{})};
    best.interventions[0].select.positions = api::Positions{int64_t{1}};
    best.logits = api::LogitsRequest{{}, {}, 4, {}};
    best.metrics = {{"p", {}, std::nullopt, api::Probability{{int64_t{2}, int64_t{9}}, false}}};
    api::ForwardRequest& ignores = users.emplace_back(Request({6, 4}));  // its first row, which leaves at once
    ignores.captures = {engine::CaptureOf({"blocks.1.hook_resid_pre"}, {1})};
    return users;
  }

  // Sees all layers.
  api::ForwardRequest Looks(std::vector<int64_t> lengths) const {
    api::ForwardRequest request = Request(std::move(lengths));
    request.captures = {engine::CaptureOf({"blocks.2.hook_resid_post"})};
    return request;
  }

  std::vector<PooledRun> StartAll(const std::vector<api::ForwardRequest>& requests) {
    std::vector<PooledRun> runs;
    for (const api::ForwardRequest& request : requests) runs.push_back(Start(request));
    return runs;
  }
  static void FinishAll(std::vector<PooledRun>& runs) {
    std::vector<PooledRun*> pointers;
    for (PooledRun& run : runs) pointers.push_back(&run);
    Finish(pointers);
  }
};

TEST_F(BatchPoolTest, ManyUsersGetWhatTheyGetAlone) {
  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs = StartAll(users);
  FinishAll(runs);
  for (size_t i = 0; i < users.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectSameAsAlone(runs[i], users[i], 1e-5);
  }
  EXPECT_EQ(BatchesOf(8), 1) << "the first wave of all seven";
  EXPECT_EQ(BatchesOf(2), 1) << "the second of those two that have one";
}

// A handle's values are there from the first batch on, although its rows never go through PlanRun::Step.
TEST_F(BatchPoolTest, AHandleIsReadInAMergedBatch) {
  api::ForwardRequest both = Request({7, 7});
  both.interventions = {EditOf({"blocks.1.attn.hook_z"}, api::CopyFromRow{0, std::nullopt}, {1})};
  both.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};
  const at::Tensor expected = engine::RunRequest(*model_, both)->Get("logits", 1);

  api::ForwardRequest source = both, target = both;
  source.prompts.pop_back();
  source.interventions.clear();
  source.captures = {engine::CaptureOf({"blocks.1.attn.hook_z"})};
  const at::Tensor z = engine::RunRequest(*model_, source)->Get("blocks.1.attn.hook_z");
  target.prompts.erase(target.prompts.begin());
  target.interventions.clear();
  const at::Tensor without = engine::RunRequest(*model_, target)->Get("logits");
  ASSERT_GT((without - expected).abs().max().item<double>(), 1e-3) << "the edit must be seen";

  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs;
  runs.push_back(Start(users[0]));
  runs.push_back(Start(target, [&](RunPlan& plan) {
    const std::vector<int64_t> all = {0, 1, 2, 3, 4, 5, 6};
    plan.kept_values = 1;
    plan.given.push_back({z, {model::Site::kZ, 1, all, {}, {}}, 0, z.nbytes(), ""});
    plan.rows[0].edits.push_back({{model::Site::kZ, 1, all, {}, {}}, intervention::Copy{0}});
  }));
  runs.push_back(Start(users[1]));
  FinishAll(runs);
  EXPECT_EQ(BatchesOf(4), 1) << "all three in one batch";
  ASSERT_TRUE(runs[1].sink->status && runs[1].sink->status->ok());
  EXPECT_LE((runs[1].sink->got.Get("logits") - expected).abs().max().item<double>(), 1e-5);
  ExpectSameAsAlone(runs[0], users[0], 1e-5);
  ExpectSameAsAlone(runs[2], users[1], 1e-5);
}

TEST_F(BatchPoolTest, WhatOneUserEditsLeavesTheBitsOfOthersAlone) {
  std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> before = StartAll(users);
  FinishAll(before);
  users[1].interventions[0].kind = api::Scale{-3};
  users[5].interventions[0].kind = api::Noise{2, 1};
  std::vector<PooledRun> after = StartAll(users);
  FinishAll(after);
  for (const size_t other : {0, 2, 3, 4, 6}) ExpectSame(after[other].sink->got, before[other].sink->got, 0);
  EXPECT_FALSE(at::equal(after[1].sink->got.Get("logits"), before[1].sink->got.Get("logits")));
}

TEST_F(BatchPoolTest, IsolatedRunsAreAloneAndRepeatBitForBit) {
  std::vector<api::ForwardRequest> users(3, Users()[0]);
  users[1].isolated = true;
  std::vector<PooledRun> runs = StartAll(users);
  FinishAll(runs);
  ExpectSameAsAlone(runs[1], users[1], 0);
  EXPECT_EQ(BatchesOf(2), 1);
  EXPECT_EQ(BatchesOf(4), 0);
}

TEST_F(BatchPoolTest, LargeBatchesAreNotForSharing) {
  const std::vector<api::ForwardRequest> users = {Users()[1], Request(std::vector<int64_t>(10, 60)), Users()[2]};
  std::vector<PooledRun> runs = StartAll(users);
  FinishAll(runs);
  for (size_t i = 0; i < users.size(); ++i) ExpectSameAsAlone(runs[i], users[i], 1e-5);
  EXPECT_EQ(BatchesOf(4), 0);
}

TEST_F(BatchPoolTest, WhoDoesNotFitComesInTheNextBatch) {
  const std::vector<api::ForwardRequest> users(3, Request({50, 50, 50, 50}));  // 512 lines have room for two of them
  std::vector<PooledRun> runs = StartAll(users);
  FinishAll(runs);
  for (size_t i = 0; i < users.size(); ++i) ExpectSameAsAlone(runs[i], users[i], 1e-5);
  EXPECT_EQ(BatchesOf(2), 1);
}

TEST_F(BatchPoolTest, ASlowReaderByItselfDoesNotHoldUpWhoComesLater) {
  const std::vector<api::ForwardRequest> users = Users();
  PooledRun slow = Start(users[0]);
  slow.sink->slow = true;
  while (slow.Step() != Progress::kBlocked) {
  }
  const size_t sent = slow.sink->got.tensors.size();
  EXPECT_EQ(slow.Step(), Progress::kBlocked) << "nobody has read";
  PooledRun other = Start(users[1]);
  Finish({&other});
  ExpectSameAsAlone(other, users[1], 1e-5);
  EXPECT_EQ(slow.sink->got.tensors.size(), sent);
  slow.sink->slow = false;
  slow.run->OnDrained();
  Finish({&slow});
  ExpectSameAsAlone(slow, users[0], 0);
}

TEST_F(BatchPoolTest, ASlowReaderInABatchDoesNotHoldUpTheOthers) {
  const std::vector<api::ForwardRequest> users = Users();
  PooledRun slow = Start(users[2], [](RunPlan& plan) { plan.rows[0].captures.emplace_back().place = plan.rows[0].keeps[0].place; });
  PooledRun other = Start(users[0]);
  slow.sink->slow = true;
  Finish({&other});
  ExpectSameAsAlone(other, users[0], 1e-5);
  EXPECT_EQ(BatchesOf(2), 1);
  EXPECT_EQ(slow.Step(), Progress::kBlocked) << "it has a second wave, and its reader has not read the first one's tensor";
  slow.run->OnDrained();
  Finish({&slow});
  ASSERT_TRUE(slow.sink->status->ok()) << *slow.sink->status;
  EXPECT_NEAR(slow.sink->got.summary.metrics.back().value, engine::RunRequest(*model_, users[2])->summary.metrics.back().value, 1e-5);
}

TEST_F(BatchPoolTest, WhoIsGoneBeforeTheBatchBeginsHarmsNobody) {
  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs = StartAll(users);
  runs[0].run->Abort(absl::CancelledError("gone"));
  runs[0].run.reset();
  runs[0].done = true;
  FinishAll(runs);
  EXPECT_EQ(runs[0].sink->status->code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(runs[0].sink->got.tensors.empty());
  for (size_t i = 1; i < users.size(); ++i) ExpectSameAsAlone(runs[i], users[i], 1e-5);
}

// What the first one had captured by then is forgotten, and captured once more.
TEST_F(BatchPoolTest, ABatchBeginsAnewWithWhatCame) {
  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs;
  runs.push_back(Start(users[0]));  // captures the embedding, too
  EXPECT_EQ(runs[0].Step(), Progress::kGoOn);
  EXPECT_TRUE(runs[0].sink->got.tensors.empty()) << "nothing leaves while others may join";
  for (const size_t i : {1, 2, 3}) runs.push_back(Start(users[i]));  // 9, 7 and 8 lines of their first waves beside 14
  FinishAll(runs);
  for (size_t i = 0; i < runs.size(); ++i) ExpectSameAsAlone(runs[i], users[i], 1e-5);
  EXPECT_EQ(BatchesOf(4), 1) << "all four";
  EXPECT_EQ(BatchesOf(2), 1) << "the second waves; nothing was counted twice";
}

// Each beginning is small beside the next: of the last batch's work a sixteenth was done before.
TEST_F(BatchPoolTest, ABatchBeginsAnewAgainWithManyMore) {
  const api::ForwardRequest few = Looks({7}), more = Looks({8}), many = Looks({15, 15});
  std::vector<PooledRun> runs;
  runs.push_back(Start(few));
  EXPECT_EQ(runs[0].Step(), Progress::kGoOn);
  runs.push_back(Start(more));
  EXPECT_EQ(runs[1].Step(), Progress::kGoOn);
  runs.push_back(Start(many));
  FinishAll(runs);
  for (size_t i = 0; i < runs.size(); ++i) ExpectSameAsAlone(runs[i], i == 0 ? few : i == 1 ? more : many, 1e-5);
  EXPECT_EQ(BatchesOf(4), 1) << "all three";
  EXPECT_EQ(BatchesOf(2), 0);
}

// To begin again with as few as had come before would do too much of the work twice.
TEST_F(BatchPoolTest, ABatchThatBeganAnewWaitsForMany) {
  const api::ForwardRequest few = Looks({7}), more = Looks({8}), again = Looks({16});
  std::vector<PooledRun> runs;
  runs.push_back(Start(few));
  EXPECT_EQ(runs[0].Step(), Progress::kGoOn);
  runs.push_back(Start(more));
  EXPECT_EQ(runs[1].Step(), Progress::kGoOn);
  runs.push_back(Start(again));
  FinishAll(runs);
  for (size_t i = 0; i < runs.size(); ++i) ExpectSameAsAlone(runs[i], i == 0 ? few : i == 1 ? more : again, 1e-5);
  EXPECT_EQ(BatchesOf(1), 1) << "the last one";
  EXPECT_EQ(BatchesOf(2), 1) << "the first two";
}

TEST_F(BatchPoolTest, ABatchGoesOnWhenLessCameThanItHas) {
  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs;
  runs.push_back(Start(users[0]));
  EXPECT_EQ(runs[0].Step(), Progress::kGoOn);
  runs.push_back(Start(users[1]));  // 9 lines beside 14
  FinishAll(runs);
  ExpectSameAsAlone(runs[0], users[0], 0);
  ExpectSameAsAlone(runs[1], users[1], 1e-5);
  EXPECT_EQ(BatchesOf(2), 0);
  EXPECT_EQ(BatchesOf(1), 2);
}

TEST_F(BatchPoolTest, AGrownBatchIsLeftAlone) {
  const std::vector<api::ForwardRequest> users = Users();
  std::vector<PooledRun> runs;
  runs.push_back(Start(users[1]));
  runs[0].sink->slow = true;  // so that a step ends with the first tensor
  while (runs[0].sink->got.tensors.empty()) runs[0].Step();
  runs[0].sink->slow = false;
  runs[0].run->OnDrained();
  runs.push_back(Start(users[0]));
  FinishAll(runs);
  ExpectSameAsAlone(runs[1], users[0], 1e-5);
  EXPECT_EQ(BatchesOf(2), 0);
  EXPECT_EQ(BatchesOf(1), 2);
}

// Its own turn was not needed: that the run is done shows in its next turn.
TEST_F(BatchPoolTest, ResultsLeaveWhoseverTurnItIs) {
  const std::vector<api::ForwardRequest> users = {Users()[1], Users()[4]};
  std::vector<PooledRun> runs = StartAll(users);
  while (runs[0].Step() != Progress::kDone) {
  }
  ExpectSameAsAlone(runs[1], users[1], 1e-5);
  EXPECT_EQ(runs[1].Step(), Progress::kDone);
}

}  // namespace
}  // namespace fluoroscope::run
