// What goes wrong with one user's rows in a shared batch is seen by that user alone.
#include <gmock/gmock.h>

#include "tensor/counting_allocator.h"
#include "tests/server/run/pooled_run.h"

namespace fluoroscope::run {
namespace {

using PoolFailureTest = PoolFixture;

// Writes down what was kept, and that it is gone.
class NotingKeeper final : public CaptureKeeper {
 public:
  struct Notes {
    std::vector<std::string> kept;
    bool ended = false;
  };
  explicit NotingKeeper(Notes& notes) : notes_(notes) {}
  ~NotingKeeper() override { notes_.ended = true; }
  std::vector<api::Handle> Keep(std::vector<KeptCapture> captures) override {
    for (const KeptCapture& capture : captures) notes_.kept.push_back(capture.tensor.name);
    return {};
  }

 private:
  Notes& notes_;
};

api::ForwardRequest Plain(api::ForwardRequest request) {
  request.captures = {engine::CaptureOf({"blocks.*.hook_resid_post"})};
  request.metrics = {{"rank", {}, std::nullopt, api::Rank{int64_t{5}}}};
  return request;
}

TEST_F(PoolFailureTest, ARunThatLibTorchRefusesFailsAlone) {
  const api::ForwardRequest first = Plain(Request({5, 9})), second = Plain(Request({9}));
  PooledRun a = Start(first);
  // An edit that no builder lets through: its tensor does not fit the site. The others have captured something by then.
  PooledRun bad = Start(Plain(Request({7})), [](RunPlan& plan) {
    plan.rows[0].edits.push_back({{model::Site::kResidPost, 1, {0}, {}, {}}, intervention::Add{at::ones({3})}});
  });
  PooledRun b = Start(second);
  Finish({&a, &bad, &b});
  EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kInternal) << *bad.sink->status;
  ExpectSameAsAlone(a, first, 0);
  ExpectSameAsAlone(b, second, 0);
  EXPECT_EQ(BatchesOf(4), 1);
  EXPECT_EQ(BatchesOf(1), 3) << "each by itself, after the batch of all three";
}

TEST_F(PoolFailureTest, ARunThatNeedsTooMuchMemoryFailsAlone) {
  const api::ForwardRequest first = Plain(Request({5, 9})), second = Plain(Request({9}));
  const auto one = engine::RunRequest(*model_, first), two = engine::RunRequest(*model_, second);
  api::ForwardRequest greedy = Request({60, 60, 60, 60});
  greedy.captures = {engine::CaptureOf({"*"})};
  tensor::InstallCountingAllocator();
  {
    PooledRun a = Start(first), bad = Start(greedy), b = Start(second);
    tensor::SetCap(tensor::Stats().work.live_bytes + (1 << 20));
    Finish({&a, &bad, &b});
    tensor::SetCap(UINT64_MAX);
    EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kResourceExhausted) << *bad.sink->status;
    EXPECT_THAT(std::string(bad.sink->status->message()), testing::HasSubstr("bytes"));
    ASSERT_TRUE(a.sink->status->ok() && b.sink->status->ok()) << *a.sink->status << *b.sink->status;
    ExpectSame(a.sink->got, *one, 1e-5);
    ExpectSame(b.sink->got, *two, 1e-5);
    EXPECT_EQ(BatchesOf(4), 1);
  }
}

// What a shared batch that failed had captured for handles is forgotten, and captured once more by each run itself.
TEST_F(PoolFailureTest, CapturesAreKeptOnce) {
  const auto keep = [](RunPlan& plan) {
    for (CapturePlan& capture : plan.rows[0].captures) capture.keep_seconds = 60;
  };
  const auto keep_and_break = [&](RunPlan& plan) {
    keep(plan);
    plan.rows[0].edits.push_back({{model::Site::kResidPost, 1, {0}, {}, {}}, intervention::Add{at::ones({3})}});
  };
  NotingKeeper::Notes good, bad, cancelled;
  const api::ForwardRequest request = Plain(Request({5}));
  PooledRun a = Start(request, keep, std::make_unique<NotingKeeper>(good));
  PooledRun b = Start(Plain(Request({7})), keep_and_break, std::make_unique<NotingKeeper>(bad));
  PooledRun c = Start(Plain(Request({6})), keep, std::make_unique<NotingKeeper>(cancelled));
  c.run->Abort(absl::CancelledError("gone"));
  EXPECT_TRUE(cancelled.ended);
  Finish({&a, &b});
  ASSERT_TRUE(a.sink->status->ok()) << *a.sink->status;
  EXPECT_EQ(b.sink->status->code(), absl::StatusCode::kInternal) << *b.sink->status;
  const std::vector<std::string> sites = {"blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"};
  EXPECT_EQ(good.kept, sites);
  EXPECT_TRUE(good.ended);
  EXPECT_TRUE(a.sink->got.tensors.empty());
  EXPECT_TRUE(bad.kept.empty());
  EXPECT_TRUE(bad.ended);
  EXPECT_TRUE(cancelled.kept.empty());
}

// The second wave's batch fails; what the first one kept and sent stays as it was.
TEST_F(PoolFailureTest, LaterWavesFailAloneToo) {
  api::ForwardRequest patches = Plain(Request({7, 7}));
  patches.interventions = {EditOf({"blocks.1.attn.hook_z"}, api::CopyFromRow{0, std::nullopt}, {1})};
  const auto break_it = [](RunPlan& plan) {
    plan.rows[1].edits.push_back({{model::Site::kResidPost, 2, {0}, {}, {}}, intervention::Add{at::ones({3})}});
  };
  PooledRun a = Start(patches), bad = Start(patches, break_it), b = Start(patches);
  Finish({&a, &bad, &b});
  EXPECT_EQ(bad.sink->status->code(), absl::StatusCode::kInternal) << *bad.sink->status;
  ExpectSameAsAlone(a, patches, 1e-5);
  ExpectSameAsAlone(b, patches, 1e-5);
  EXPECT_EQ(BatchesOf(4), 2);
}

}  // namespace
}  // namespace fluoroscope::run
