// The estimate of swap_subspace with the part that a matrix reads: finding that part takes several matrices in float64.
#include <algorithm>
#include <numeric>

#include "engine/plan_builder.h"
#include "run/forward_run.h"
#include "run/peak.h"
#include "tensor/chunk.h"
#include "tests/server/engine/estimates.h"

namespace fluoroscope::engine {
namespace {

struct SwapCase {
  const char* name;
  const char* site;
  int64_t length, directions, width;  // the site's, where not of some units
  std::vector<uint32_t> heads = {}, units = {};
  at::ScalarType dtype = at::kFloat;
};

std::vector<uint32_t> EverySecond(uint32_t count) {
  std::vector<uint32_t> units(count);
  for (uint32_t i = 0; i < count; ++i) units[i] = 2 * i;
  return units;
}

class SwapEstimateTest : public EstimateTest, public testing::WithParamInterface<SwapCase> {};

TEST_P(SwapEstimateTest, Parts) {
  using Part = api::SwapSubspace::Part;
  const SwapCase& one = GetParam();
  const std::unique_ptr<LoadedModel> model = Offer(model::MediumLlama(1024, one.dtype));
  for (const Part part : {Part::kRowSpace, Part::kNullSpace, Part::kWhole}) {
    api::ForwardRequest request;
    request.prompts = Prompts(3, one.length);
    request.logits = api::LogitsRequest{};
    api::Intervention edit;
    edit.select.sites = {one.site};
    edit.select.rows = {1, 2};
    edit.select.heads = one.heads;
    edit.select.units = one.units;
    const int64_t width = one.units.empty() ? one.width : static_cast<int64_t>(one.units.size());
    edit.kind = api::SwapSubspace{{0, std::nullopt}, *tensor::ToChunk(at::randn({one.directions, width})), part};
    request.interventions = {edit};
    absl::StatusOr<BuiltPlan> built = BuildPlan(*model, request, config::Limits());
    ASSERT_TRUE(built.ok()) << built.status();
    const uint64_t estimated = built->cost.peak_bytes;
    const auto sink = std::make_shared<CollectingSink>();
    run::ForwardRun run(std::move(built->plan), {}, sink, metrics_);
    Finish(run);
    ASSERT_TRUE(sink->status.ok()) << sink->status;
    // Without a part, most of these runs need so little that the fixed half MiB in every estimate is a quarter of it.
    EXPECT_GE(estimated, sink->summary.peak_bytes) << one.name;
    if (part == Part::kWhole && sink->summary.peak_bytes < 4 * run::kSlackBytes) continue;
    Compare(std::string(one.name) + ", part " + std::to_string(static_cast<int>(part)), estimated, sink->summary.peak_bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Places, SwapEstimateTest,
                         testing::Values(SwapCase{"neurons", "blocks.3.mlp.hook_post", 48, 3, 1024},
                                         SwapCase{"neurons, a long prompt", "blocks.3.mlp.hook_post", 300, 3, 1024},
                                         SwapCase{"neurons, many directions", "blocks.3.mlp.hook_post", 48, 250, 1024},
                                         SwapCase{"some neurons", "blocks.3.mlp.hook_post", 48, 3, 1024, {}, EverySecond(500)},
                                         SwapCase{"few neurons", "blocks.3.mlp.hook_post", 128, 3, 1024, {}, EverySecond(100)},
                                         SwapCase{"neurons in bfloat16", "blocks.3.mlp.hook_post", 48, 3, 1024, {}, {}, at::kBFloat16},
                                         SwapCase{"a head", "blocks.3.attn.hook_z", 128, 3, 32, {1}}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace fluoroscope::engine
