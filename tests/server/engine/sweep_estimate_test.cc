// Estimates of sweeps in corners: other dtypes, heads that are edited before rows attend, and the cells that a fast sweep runs again.
#include <gtest/gtest.h>

#include <algorithm>
#include <variant>

#include "sweep/fast_sweep_run.h"
#include "tests/server/engine/estimates.h"

namespace fluoroscope::engine {
namespace {

using api::SweepAxis;

// One pair of prompts of this length that begin with `common` equal tokens, over layers and heads.
api::SweepRequest OverHeads(const char* site, int64_t length, int64_t common) {
  api::SweepRequest request;
  std::vector<api::Prompt> prompts = Prompts(2, length);
  const auto& clean = std::get<std::vector<int64_t>>(prompts[0].input);
  std::copy_n(clean.begin(), common, std::get<std::vector<int64_t>>(prompts[1].input).begin());
  request.pairs.push_back({prompts[0], prompts[1], std::nullopt, {}});
  request.sites = {site};
  request.over = {SweepAxis::kLayer, SweepAxis::kHead};
  request.metrics = {MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false)};
  return request;
}

class SweepEstimateTest : public EstimateTest {};

// LibTorch packs keys and values of bfloat16 products once more.
TEST_F(SweepEstimateTest, BFloat16) {
  const std::unique_ptr<LoadedModel> model = Offer(model::MediumLlama(768, at::kBFloat16));
  for (const char* site : {"attn.hook_q", "attn.hook_z"})
    for (const int64_t common : {0, 100})
      CompareSweep(*model, OverHeads(site, 200, common), "bfloat16, " + std::string(site) + ", common: " + std::to_string(common));
}

// An edited query, key or value is a copy beside the matrix that all of them are parts of.
TEST_F(SweepEstimateTest, HeadsBeforeTheyAttend) {
  const std::unique_ptr<LoadedModel> gpt2 = Offer(model::MediumGpt2());
  for (const char* site : {"attn.hook_q", "attn.hook_k", "attn.hook_v"}) {
    CompareSweep(*gpt2, OverHeads(site, 60, 10), "gpt2, " + std::string(site));
    CompareSweep(*model_, OverHeads(site, 300, 100), "llama, " + std::string(site));
  }
}

// Few cells of each of many pairs: whole grids of few pairs were what the estimate is of.
TEST_F(SweepEstimateTest, CellsThatAFastSweepRunsAgain) {
  api::SweepRequest request;
  const std::vector<api::Prompt> clean = Prompts(120, 4), corrupt = Prompts(120, 4);
  for (size_t i = 0; i < clean.size(); ++i) request.pairs.push_back({clean[i], corrupt[i], std::nullopt, {}});
  request.sites = {"attn.hook_z"};
  request.over = {SweepAxis::kLayer, SweepAxis::kPosition, SweepAxis::kHead};
  request.metrics = {MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false)};
  const auto half = std::make_shared<sweep::HalfModel>();
  uint64_t seen = 0, estimated = 0;
  for (int round = 0; round < 2; ++round) {  // the first one also makes the twin
    absl::StatusOr<BuiltSweep> built = BuildSweep(*model_, request, config::Limits());
    ASSERT_TRUE(built.ok()) << built.status();
    estimated = built->header.cost.peak_bytes;
    const auto sink = std::make_shared<SweepEnd>();
    sweep::FastSweepRun run({std::move(built->plan), {5, 5, 1}, half}, std::move(built->header), {}, sink, metrics_,
                            std::chrono::steady_clock::now());
    Finish(run);
    ASSERT_TRUE(sink->status.ok()) << sink->status;
    seen = sink->summary.peak_bytes;
  }
  EXPECT_LE(seen, estimated) << "bytes";
  EXPECT_GE(seen, estimated / 2);
}

}  // namespace
}  // namespace fluoroscope::engine
