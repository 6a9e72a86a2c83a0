// What a fast sweep's bfloat16 twin is charged, however the sweep that makes it ends.
#include "sweep/fast_sweep_run.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "obs/metrics.h"
#include "residency/weight_budget.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::sweep {
namespace {

using Progress = sched::Work::Progress;

class EndSink final : public api::SweepSink {
 public:
  bool Push(api::SweepPart part) override {
    if (const auto* part_cells = std::get_if<api::SweepCells>(&part)) cells += part_cells->cells.size();
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status end) override { status = std::move(end); }

  size_t cells = 0;
  absl::Status status = absl::UnknownError("not finished");
};

class FastSweepTest : public testing::Test {
 protected:
  // A sweep over the layers of one pair, and its twin's memory out of `budget_`.
  std::unique_ptr<FastSweepRun> Make(std::shared_ptr<const model::Model> model, std::shared_ptr<HalfModel> half) {
    half->reserve = [this, bytes = model::HalfProducts::Bytes(*model)]() -> absl::StatusOr<std::shared_ptr<const void>> {
      ++reserved_;
      return std::shared_ptr<const void>(budget_.TryCharge(bytes));
    };
    Pair pair;
    pair.base_ids = {1, 2, 3, 4};
    pair.source_ids = {1, 5, 3, 4};
    pair.source_of = {0, 1, 2, 3};
    pair.groups = {{0, 1, 2, 3}};
    pair.base_metrics = {{"end", {3}, intervention::LogitDifference{{3}, {7}}}};
    pair.source_metrics = pair.base_metrics;
    Grid grid;
    grid.axes = {api::SweepAxis::kLayer};
    grid.sites = {model::Site::kResidPre};
    grid.layers.resize(static_cast<size_t>(model->arch.layers));
    std::iota(grid.layers.begin(), grid.layers.end(), 0);
    grid.model_layers = model->arch.layers;
    api::SweepHeader header;
    header.metrics = {"end"};
    sink_ = std::make_shared<EndSink>();
    return std::make_unique<FastSweepRun>(FastSweepRun::Plan{{model, grid, api::SweepCell::kPatch, {pair}}, {}, std::move(half)}, header,
                                          std::vector<std::string>(), sink_, metrics_, std::chrono::steady_clock::now());
  }

  residency::WeightBudget budget_{uint64_t{1} << 40};
  int reserved_ = 0;
  obs::Metrics metrics_;
  std::shared_ptr<EndSink> sink_;
};

TEST_F(FastSweepTest, ATwinIsChargedOnceAndAsLongAsItIsThere) {
  const std::shared_ptr<const model::Model> model = model::TinyLlama();
  auto half = std::make_shared<HalfModel>();
  for (int sweep = 0; sweep < 2; ++sweep) {
    auto run = Make(model, half);
    while (run->Step() != Progress::kDone) {
    }
    EXPECT_TRUE(sink_->status.ok()) << sink_->status;
    EXPECT_GE(sink_->cells, 3u);
    run.reset();
    EXPECT_EQ(budget_.charged_bytes(), model::HalfProducts::Bytes(*model));
    EXPECT_EQ(reserved_, 1);
  }
  half.reset();
  EXPECT_EQ(budget_.charged_bytes(), 0u);
}

TEST_F(FastSweepTest, AConversionThatFailsGivesItsChargeBack) {
  const std::shared_ptr<const model::Model> model = model::TinyLlama();
  auto broken = std::make_shared<model::Model>(*model);
  broken->weights.blocks[1].attn_out.weight = at::Tensor();  // behind a block that is converted
  auto half = std::make_shared<HalfModel>();
  auto run = Make(model, half);  // counts what it needs of the whole one
  run = std::make_unique<FastSweepRun>(FastSweepRun::Plan{{broken, {}, api::SweepCell::kPatch, {}}, {}, half}, api::SweepHeader(),
                                       std::vector<std::string>(), sink_, metrics_, std::chrono::steady_clock::now());
  EXPECT_EQ(run->Step(), Progress::kDone);
  EXPECT_EQ(reserved_, 1);
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kInternal) << sink_->status;
  EXPECT_EQ(budget_.charged_bytes(), 0u);
  EXPECT_EQ(half->made, nullptr);
  run = Make(model, half);  // the next first sweep is charged anew, and makes it
  while (run->Step() != Progress::kDone) {
  }
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  EXPECT_EQ(reserved_, 2);
  EXPECT_EQ(budget_.charged_bytes(), model::HalfProducts::Bytes(*model));
}

// Cancelled before its turn, and after one: on most machines that is in the middle of the conversion, on a fast one behind it. The twin is
// charged if it is there to be used by the next sweep, and only then.
TEST_F(FastSweepTest, ACancelledSweepLeavesAWholeTwinOrNoCharge) {
  const std::shared_ptr<const model::Model> model = model::MediumLlama(/*d_mlp=*/8192);
  auto half = std::make_shared<HalfModel>();
  auto run = Make(model, half);
  run->Abort(absl::CancelledError("before"));
  EXPECT_EQ(budget_.charged_bytes(), 0u);
  run = Make(model, half);
  EXPECT_EQ(run->Step(), Progress::kMore);
  EXPECT_EQ(budget_.charged_bytes(), model::HalfProducts::Bytes(*model));
  const bool is_made = half->made != nullptr;
  run->Abort(absl::CancelledError("in the middle"));
  EXPECT_EQ(sink_->status, absl::CancelledError("in the middle"));
  EXPECT_EQ(budget_.charged_bytes(), is_made ? model::HalfProducts::Bytes(*model) : 0u);
  run.reset();
  half.reset();
  EXPECT_EQ(budget_.charged_bytes(), 0u);
}

}  // namespace
}  // namespace fluoroscope::sweep
