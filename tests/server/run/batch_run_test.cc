// A run leaves a batch that it shares with another: wherever the batch is, the other goes on with what it would have alone.
#include "run/batch_run.h"

#include "run/plan_run.h"
#include "tests/server/run/pooled_run.h"

namespace fluoroscope::run {
namespace {

class BatchRunTest : public PoolFixture {
 protected:
  struct Side {
    Side(RunPlan plan_, obs::Metrics& metrics) : plan(std::move(plan_)), out(sink), run(plan, "tiny", out, metrics) {}
    std::shared_ptr<ReaderSink> sink = std::make_shared<ReaderSink>();
    RunPlan plan;
    ResultWriter out;
    PlanRun run;
  };
  std::unique_ptr<Side> SideOf(const api::ForwardRequest& request) {
    return std::make_unique<Side>(std::move(engine::BuildPlan(*model_, request, config::Limits())->plan), metrics_);
  }
  api::ForwardRequest Busy(std::vector<int64_t> lengths) const {
    api::ForwardRequest request = Request(std::move(lengths));
    request.captures = {engine::CaptureOf({"*"}), engine::CaptureOf({"blocks.*.hook_resid_post"})};
    request.captures[1].reduction = api::ReduceLens{2, {}};
    request.interventions = {EditOf({"blocks.1.attn.hook_pattern", "blocks.1.hook_resid_mid"}, api::Scale{0.7})};
    request.metrics = {{"rank", {}, std::nullopt, api::Rank{int64_t{5}}},
                       {"d", {}, std::nullopt, api::LogitDifference{{int64_t{3}}, {int64_t{8}}}}};
    request.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};
    return request;
  }
};

TEST_F(BatchRunTest, ALaneLeavesAtAnyPoint) {
  const api::ForwardRequest stays = Busy({6, 4, 6}), leaves = Busy({6, 11, 3});
  const auto expected = engine::RunRequest(*model_, stays);
  ASSERT_TRUE(expected->status.ok()) << expected->status;
  bool ended = false;
  for (int pieces = 0; !ended; ++pieces) {
    SCOPED_TRACE(pieces);
    const std::unique_ptr<Side> a = SideOf(stays);
    std::unique_ptr<Side> b = SideOf(leaves);
    LaneRows rows;
    AddRows(a->run.lane(), a->run.TakeBatch(), rows);
    AddRows(b->run.lane(), b->run.TakeBatch(), rows);
    SortByLength(rows);
    BatchRun batch(*model_->model, std::move(rows));
    bool more = true;
    for (int i = 0; i < pieces && more; ++i) more = batch.Step();
    ended = !more;
    if (more) more = batch.Remove(b->run.lane());
    b.reset();
    while (more) more = batch.Step();
    a->sink->got.summary.metrics = a->out.metrics();
    a->sink->got.summary.tokens = a->run.tokens();
    ExpectSame(a->sink->got, *expected, 1e-5);
    if (HasFailure()) break;
  }
}

// Rows that begin in the middle of the model are waited for, though nobody else is left in the batch.
TEST_F(BatchRunTest, RowsThatHaveNotBegunStay) {
  api::ForwardRequest stays = Request({5});
  stays.logits = api::LogitsRequest{};
  const auto start = [](RunPlan& plan) {
    plan.rows[0].start = StartPlan{{1, model::Part::kMlp}, at::arange(5 * 24).view({5, 24}).to(at::kFloat) / 60};
  };
  PooledRun alone = Start(stays, start);
  Finish({&alone});
  for (int pieces = 0; pieces < 3; ++pieces) {
    const std::unique_ptr<Side> a = SideOf(stays);
    start(a->plan);
    std::unique_ptr<Side> b = SideOf(Busy({4}));
    LaneRows rows;
    AddRows(a->run.lane(), a->run.TakeBatch(), rows);
    AddRows(b->run.lane(), b->run.TakeBatch(), rows);
    SortByLength(rows);
    BatchRun batch(*model_->model, std::move(rows));
    for (int i = 0; i < pieces; ++i) batch.Step();
    bool more = batch.Remove(b->run.lane());
    b.reset();
    while (more) more = batch.Step();
    EXPECT_LE((a->sink->got.Get("logits") - alone.sink->got.Get("logits")).abs().max().item<double>(), 1e-5) << pieces;
  }
}

}  // namespace
}  // namespace fluoroscope::run
