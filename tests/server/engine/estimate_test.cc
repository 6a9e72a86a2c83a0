// What a run is estimated to need, against what the counting allocator saw. Admission relies on the estimate, so it must not be too small;
// and one that is far too large keeps requests out that would fit.
#include <gtest/gtest.h>

#include <functional>

#include "engine/generate_builder.h"
#include "engine/plan_builder.h"
#include "engine/sweep_builder.h"
#include "generate/generate_run.h"
#include "run/forward_run.h"
#include "sweep/sweep_run.h"
#include "tests/server/engine/estimates.h"

namespace fluoroscope::engine {
namespace {

api::Intervention EditOf(std::vector<std::string> sites, decltype(api::Intervention::kind) kind, std::vector<uint32_t> rows = {}) {
  api::Intervention edit;
  edit.select.sites = std::move(sites);
  edit.select.rows = std::move(rows);
  edit.kind = std::move(kind);
  return edit;
}

struct Case {
  const char* name;
  std::function<void(api::ForwardRequest&)> set;
};

const api::LogitsRequest kLast{}, kAll{api::Positions{api::AllPositions()}, {}, 0, {}},
    kBest{api::Positions{api::AllPositions()}, {}, 5, {}};

const Case kForwards[] = {
    {"plain",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.logits = kLast;
     }},
    {"short",
     [](auto& r) {
       r.prompts = Prompts(64, 14);
       r.logits = kLast;
     }},
    {"long",
     [](auto& r) {
       r.prompts = Prompts(2, 480);
       r.logits = kLast;
     }},
    {"all logits",
     [](auto& r) {
       r.prompts = Prompts(4, 256);
       r.logits = kAll;
     }},
    {"best tokens everywhere",
     [](auto& r) {
       r.prompts = Prompts(4, 256);
       r.logits = kBest;
     }},
    {"capture of the residual stream",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.captures = {CaptureOf({"blocks.*.hook_resid_post"})};
     }},
    {"capture of patterns",
     [](auto& r) {
       r.prompts = Prompts(4, 200);
       r.captures = {CaptureOf({"blocks.*.attn.hook_pattern"})};
     }},
    {"capture of one layer's pattern",
     [](auto& r) {
       r.prompts = Prompts(2, 480);
       r.captures = {CaptureOf({"blocks.5.attn.hook_pattern"})};
     }},
    {"capture of results",
     [](auto& r) {
       r.prompts = Prompts(2, 256);
       r.captures = {CaptureOf({"blocks.2.attn.hook_result"})};
     }},
    {"capture of everything",
     [](auto& r) {
       r.prompts = Prompts(4, 64);
       r.captures = {CaptureOf({"*"})};
     }},
    {"largest neurons",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.captures = {CaptureOf({"blocks.*.mlp.hook_post"})};
       r.captures[0].reduction = api::ReduceTopK{10};
     }},
    {"lens of every layer",
     [](auto& r) {
       r.prompts = Prompts(4, 128);
       r.captures = {CaptureOf({"blocks.*.hook_resid_post"})};
       r.captures[0].reduction = api::ReduceLens{5, {}};
     }},
    {"all tokens ranked everywhere",
     [](auto& r) {
       r.prompts = Prompts(2, 400);
       r.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 4000, {}};
     }},
    {"lens that ranks all tokens",
     [](auto& r) {
       r.prompts = Prompts(1, 400);
       r.captures = {CaptureOf({"blocks.3.hook_resid_post"})};
       r.captures[0].reduction = api::ReduceLens{4000, {}};
     }},
    {"lens on most tokens",
     [](auto& r) {
       r.prompts = Prompts(1, 400);
       r.captures = {CaptureOf({"blocks.3.hook_resid_post"})};
       api::ReduceLens lens;
       for (int64_t token = 0; token < 3500; ++token) lens.tokens.push_back(token);
       r.captures[0].reduction = std::move(lens);
     }},
    {"scaled MLPs",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.interventions = {EditOf({"blocks.*.hook_mlp_out"}, api::Scale{0.5})};
       r.logits = kLast;
     }},
    {"noise on neurons",
     [](auto& r) {
       r.prompts = Prompts(2, 480);
       r.interventions = {EditOf({"blocks.*.mlp.hook_post"}, api::Noise{0.1, 1})};
       r.logits = kLast;
     }},
    {"a head off",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.interventions = {EditOf({"blocks.3.attn.hook_z"}, api::Zero{})};
       r.interventions[0].select.heads = {2};
       r.logits = kLast;
     }},
    {"edited patterns",
     [](auto& r) {
       r.prompts = Prompts(2, 300);
       r.interventions = {EditOf({"blocks.*.attn.hook_pattern"}, api::Scale{0.9})};
       r.logits = kLast;
     }},
    {"patched residual",
     [](auto& r) {
       r.prompts = Prompts(8, 128);
       r.interventions = {EditOf({"blocks.*.hook_resid_mid"}, api::CopyFromRow{0, std::nullopt}, {4, 5, 6, 7})};
       r.logits = kLast;
     }},
    {"mean of rows",
     [](auto& r) {
       r.prompts = Prompts(8, 128);
       r.interventions = {EditOf({"blocks.2.hook_resid_mid"}, api::MeanOfRows{{0, 1, 2, 3}, std::nullopt}, {4, 5, 6, 7})};
       r.logits = kLast;
     }},
    {"logit difference everywhere",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.metrics = {MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, true)};
     }},
    {"cross-entropy",
     [](auto& r) {
       r.prompts = Prompts(16, 64);
       r.metrics = {MetricOf(api::CrossEntropy{}, false)};
     }},
    {"divergence from another row",
     [](auto& r) {
       r.prompts = Prompts(4, 256);
       r.metrics = {MetricOf(api::ToReference{api::ToReference::Measure::kJs, 0, std::nullopt}, true, {1, 2, 3})};
     }},
};

void TakeGradients(api::ForwardRequest& request, std::vector<std::string> sites, decltype(api::Metric::kind) kind, bool everywhere) {
  request.metrics.push_back(MetricOf(std::move(kind), everywhere, {0}));
  request.captures.push_back(CaptureOf(std::move(sites)));
  request.captures.back().gradient_of = "m";
}

const api::LogitDifference kDifference{{int64_t{3}}, {int64_t{4}}};

const Case kGradients[] = {
    {"gradients of the residual stream",
     [](auto& r) {
       r.prompts = Prompts(1, 300);
       TakeGradients(r, {"blocks.*.hook_resid_pre"}, kDifference, false);
     }},
    {"gradients of one late site",
     [](auto& r) {
       r.prompts = Prompts(1, 480);
       TakeGradients(r, {"blocks.5.mlp.hook_post"}, kDifference, false);
     }},
    {"gradients of one early site, at one position",
     [](auto& r) {
       r.prompts = Prompts(1, 480);
       TakeGradients(r, {"blocks.0.attn.hook_q"}, kDifference, false);
       r.captures[0].reduction = api::ReduceLast{};
     }},
    {"gradients of one pattern",
     [](auto& r) {
       r.prompts = Prompts(1, 480);
       TakeGradients(r, {"blocks.3.attn.hook_pattern"}, kDifference, false);
       r.captures[0].reduction = api::ReduceLast{};
     }},
    {"gradients of scores and results",
     [](auto& r) {
       r.prompts = Prompts(1, 300);
       TakeGradients(r, {"blocks.*.attn.hook_attn_scores", "blocks.*.attn.hook_result"}, kDifference, false);
       r.captures[0].reduction = api::ReduceLast{};
     }},
    {"gradients of everything",
     [](auto& r) {
       r.prompts = Prompts(1, 128);
       TakeGradients(r, {"*"}, kDifference, false);
     }},
    {"gradients of everything, kept small",
     [](auto& r) {
       r.prompts = Prompts(1, 400);
       TakeGradients(r, {"*"}, kDifference, false);
       r.captures[0].reduction = api::ReduceLast{};
     }},
    {"gradients of a cross-entropy",
     [](auto& r) {
       r.prompts = Prompts(1, 64);
       TakeGradients(r, {"hook_embed"}, api::CrossEntropy{}, false);
     }},
    {"gradients of a divergence",
     [](auto& r) {
       r.prompts = Prompts(2, 64);
       TakeGradients(r, {"hook_embed"}, api::ToReference{api::ToReference::Measure::kJs, 1, std::nullopt}, true);
     }},
    {"gradients of an edited run",
     [](auto& r) {
       r.prompts = Prompts(1, 400);
       r.interventions = {EditOf({"blocks.*.hook_resid_mid", "blocks.*.mlp.hook_post"}, api::Noise{0.1, 1}),
                          EditOf({"blocks.*.attn.hook_z"}, api::Scale{0.5})};
       TakeGradients(r, {"blocks.*.hook_resid_pre"}, kDifference, false);
     }},
};

class ForwardEstimateTest : public EstimateTest, public testing::WithParamInterface<std::pair<int64_t, at::ScalarType>> {};

TEST_P(ForwardEstimateTest, EveryRequest) {
  const auto [d_mlp, dtype] = GetParam();
  const std::unique_ptr<LoadedModel> model = Offer(model::MediumLlama(d_mlp, dtype));
  config::Limits limits;
  limits.sink_buffer_mib = 1024;  // the sink keeps everything and never says that it has enough; stopped_reader_test.cc has those that do
  std::vector<Case> cases(std::begin(kForwards), std::end(kForwards));
  cases.insert(cases.end(), std::begin(kGradients), std::end(kGradients));
  for (const Case& one : cases) {
    api::ForwardRequest request;
    one.set(request);
    absl::StatusOr<BuiltPlan> built = BuildPlan(*model, request, limits);
    ASSERT_TRUE(built.ok()) << one.name << ": " << built.status();
    const uint64_t estimated = built->cost.peak_bytes;
    const auto sink = std::make_shared<CollectingSink>();
    run::ForwardRun run(std::move(built->plan), {}, sink, metrics_);
    Finish(run);
    ASSERT_TRUE(sink->status.ok()) << one.name << ": " << sink->status;
    Compare(one.name, estimated, sink->summary.peak_bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardEstimateTest,
                         testing::Values(std::pair(768, at::kFloat), std::pair(128, at::kFloat), std::pair(768, at::kBFloat16)),
                         [](const auto& info) { return info.index == 0   ? "Float32"
                                                       : info.index == 1 ? "NarrowMlp"
                                                                         : "BFloat16"; });

TEST_F(EstimateTest, Generate) {
  for (const bool captures : {false, true}) {
    for (const auto& [count, length, tokens] : {std::tuple(8, 100, 60), std::tuple(1, 400, 40), std::tuple(64, 10, 40)}) {
      api::GenerateRequest request;
      request.prompts = Prompts(count, length);
      request.max_new_tokens = static_cast<uint32_t>(tokens);
      if (captures) {
        request.captures = {CaptureOf({"blocks.*.hook_resid_post"})};
        request.captures[0].select.positions = api::Positions{api::GeneratedPositions()};
        request.interventions = {EditOf({"blocks.2.hook_mlp_out"}, api::Scale{0.5})};
      }
      absl::StatusOr<BuiltGeneration> built = BuildGeneration(model_, request, config::Limits());
      ASSERT_TRUE(built.ok()) << built.status();
      const uint64_t estimated = built->cost.peak_bytes;
      const auto sink = std::make_shared<CollectingSink>();
      generate::GenerateRun run(std::move(built->plan), {}, model_->decoding, sink, metrics_, std::chrono::steady_clock::now());
      Finish(run);
      ASSERT_TRUE(sink->status.ok()) << sink->status;
      Compare("generation of " + std::to_string(count) + " x " + std::to_string(length) + "+" + std::to_string(tokens) +
                  (captures ? " with captures" : ""),
              estimated, sink->summary.peak_bytes);
    }
  }
}

// Prompts of one pair begin alike; what follows has few queries or many.
TEST_F(EstimateTest, SweepOfPromptsThatBeginAlike) {
  using api::SweepAxis;
  const std::pair<int64_t, int64_t> shapes[] = {{300, 100}, {300, 290}, {400, 396}};
  for (const auto& [length, common] : shapes) {
    for (const char* site : {"hook_resid_pre", "attn.hook_z", "attn.hook_pattern"}) {
      for (const bool compares : {false, true}) {
        api::SweepRequest request;
        std::vector<api::Prompt> prompts = Prompts(2, length);
        auto& corrupt = std::get<std::vector<int64_t>>(prompts[1].input);
        const auto& clean = std::get<std::vector<int64_t>>(prompts[0].input);
        std::copy_n(clean.begin(), common, corrupt.begin());
        request.pairs.push_back({prompts[0], prompts[1], std::nullopt, {}});
        request.sites = {site};
        request.over = {SweepAxis::kLayer, SweepAxis::kPosition};
        request.positions = api::Positions{length - 2};
        api::ToReference to;
        to.row = 1;
        request.metrics = {compares ? MetricOf(to, false) : MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false)};
        CompareSweep(*model_, request,
                     "sweep of " + std::string(site) + " over " + std::to_string(length) + " tokens, common: " + std::to_string(common) +
                         (compares ? ", with a comparison" : ""));
      }
    }
  }
}

TEST_F(EstimateTest, Sweep) {
  using api::SweepAxis;
  const std::pair<const char*, std::vector<SweepAxis>> grids[] = {{"hook_resid_pre", {SweepAxis::kLayer, SweepAxis::kPosition}},
                                                                  {"attn.hook_z", {SweepAxis::kLayer, SweepAxis::kHead}},
                                                                  {"attn.hook_pattern", {SweepAxis::kLayer, SweepAxis::kHead}},
                                                                  {"hook_mlp_out", {SweepAxis::kLayer, SweepAxis::kPosition}}};
  for (const int64_t pairs : {1, 4}) {
    for (const auto& [site, axes] : grids) {
      api::SweepRequest request;
      const std::vector<api::Prompt> clean = Prompts(pairs, 40), corrupt = Prompts(pairs, 40);
      for (size_t i = 0; i < clean.size(); ++i) request.pairs.push_back({clean[i], corrupt[i], std::nullopt, {}});
      request.sites = {site};
      request.over = axes;
      request.metrics = {MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false)};
      CompareSweep(*model_, request, std::string("sweep of ") + site + ", pairs: " + std::to_string(pairs));
    }
  }
}

}  // namespace
}  // namespace fluoroscope::engine
