// Requests that cannot run are refused with a code and a message that say why; plans that can are exact.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/identity_check.h"
#include "engine/plan_builder.h"
#include "engine/resolve.h"
#include "engine/waves.h"
#include "model/rotary.h"
#include "obs/metrics.h"
#include "tensor/chunk.h"
#include "tensor/counting_allocator.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::engine {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

class PlanTest : public testing::Test {
 protected:
  api::ForwardRequest Request() const {
    api::ForwardRequest request;
    request.prompts = {{api::TokenIds{1, 2, 3, 4, 2}, api::Bos::kDefault, false}, {api::TokenIds{5, 6, 7}, api::Bos::kDefault, false}};
    return request;
  }
  void ExpectError(const api::ForwardRequest& request, StatusCode code, const std::string& message) const {
    const absl::Status status = BuildPlan(*model_, request, config::Limits()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  api::ForwardRequest Capturing(std::vector<std::string> sites) const {
    api::ForwardRequest request = Request();
    request.captures = {CaptureOf(std::move(sites))};
    return request;
  }
  std::unique_ptr<LoadedModel> model_ = Offer(model::TinyLlama());
};

TEST_F(PlanTest, RefusesPrompts) {
  api::ForwardRequest request;
  ExpectError(request, StatusCode::kInvalidArgument, "prompts is empty");
  request.prompts = {{api::TokenIds{}, api::Bos::kDefault, false}};
  ExpectError(request, StatusCode::kInvalidArgument, "prompts[0] is empty");
  request.prompts = {{api::TokenIds{3, 61}, api::Bos::kDefault, false}};
  ExpectError(request, StatusCode::kInvalidArgument, "token id 61 at position 1");
  request.prompts = {{api::TokenIds(65, 1), api::Bos::kDefault, false}};
  ExpectError(request, StatusCode::kInvalidArgument, "context of 64");
  request.prompts = {{std::string("text"), api::Bos::kDefault, false}};
  ExpectError(request, StatusCode::kFailedPrecondition, "no tokenizer.json");
}

TEST_F(PlanTest, RefusesSites) {
  ExpectError(Capturing({"blocks.99.hook_resid_pre"}), StatusCode::kNotFound, "layers 0 to 2");
  const auto unknown = [&](const char* name, const char* said) { ExpectError(Capturing({name}), StatusCode::kNotFound, said); };
  unknown("resid_pre", "did you mean 'blocks.{layer}.hook_resid_pre'");
  unknown("blocks.1.resid_pre", "did you mean 'blocks.1.hook_resid_pre'");
  unknown("blocks.2.attn.hook_patern", "did you mean 'blocks.2.attn.hook_pattern'?");
  unknown("blocks.7.attn.hook_patern", "did you mean 'blocks.{layer}.attn.hook_pattern'? ");
  unknown("blocks.0.mlp.hook_z", "did you mean 'blocks.0.attn.hook_z'");
  unknown("hook_embd", "did you mean 'hook_embed'");
  unknown("blocks.1.ln.hook_scale", "'blocks.1.ln1.hook_scale', 'blocks.1.ln2.hook_scale', 'ln_final.hook_scale'?");
  unknown("blocks.-1.hook_resid_pre",
          "layer -1 is 'blocks.2.hook_resid_pre'. Negative layers are written apart from the name: layers [-1] of "
          "'blocks.*.hook_resid_pre'");
  unknown("blocks.-9.hook_resid_pre", "layers 0 to 2. Negative layers are");
  unknown("blocks.0.blocks.5.hook_z",
          "it has a layer, 'blocks.5.hook_z', where the name of a site of the blocks is wanted, such as 'hook_z'");
  unknown("blocks.x", "there are");
  ExpectError(Capturing({"nonsense"}), StatusCode::kNotFound, "there are");
  ExpectError(Capturing({"*.hook_nothing"}), StatusCode::kNotFound, "matches no hook point");
  ExpectError(Capturing({"hook_pos_embed"}), StatusCode::kFailedPrecondition, "no learned position embedding");
  api::ForwardRequest request = Capturing({"blocks.*.hook_resid_pre"});
  request.captures[0].select.layers = {3};
  ExpectError(request, StatusCode::kInvalidArgument, "layers 0 to 2");
  request.captures[0].select.layers = {-1};
  request.captures[0].select.heads = {0};
  ExpectError(request, StatusCode::kInvalidArgument, "has no head axis");
  request = Capturing({"blocks.0.attn.hook_k"});
  request.captures[0].select.heads = {2};
  ExpectError(request, StatusCode::kInvalidArgument, "heads 0 to 1");
  request = Capturing({"blocks.0.attn.hook_k"});
  request.captures[0].select.rows = {2};
  ExpectError(request, StatusCode::kInvalidArgument, "row 2 does not exist");
}

TEST_F(PlanTest, RefusesASiteWhoseIdentityFails) {
  model_->refused.Set(SitesRefusedFor({.attention = 0.5}, at::kFloat));
  ExpectError(Capturing({"blocks.0.attn.hook_z"}), StatusCode::kFailedPrecondition, "pattern @ v = z does not hold");
  EXPECT_TRUE(BuildPlan(*model_, Capturing({"blocks.0.hook_resid_pre"}), config::Limits()).ok());
  EXPECT_FALSE(SitesRefusedFor({.residual = std::nan("")}, at::kFloat).empty());
  EXPECT_TRUE(SitesRefusedFor({}, at::kFloat).empty());
}

TEST_F(PlanTest, ResolvesPositions) {
  const std::vector<int64_t> ids = {1, 2, 3, 4, 2};
  const auto resolve = [&](const api::Positions& positions) { return ResolvePositions(*model_, positions, ids, "f"); };
  EXPECT_EQ(*resolve({int64_t{-1}, int64_t{0}, int64_t{4}}), (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(*resolve({api::PositionRange{1, -1}}), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(*resolve({api::OccurrencesOf{int64_t{2}}}), (std::vector<int64_t>{1, 4}));
  EXPECT_EQ(resolve({int64_t{5}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(resolve({int64_t{-6}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(resolve({api::PositionRange{3, 3}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(resolve({api::OccurrencesOf{int64_t{9}}}).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(PlanTest, RefusesCopies) {
  api::ForwardRequest request = Request();
  request.interventions.resize(1);
  api::Intervention& patch = request.interventions[0];
  patch.select.sites = {"blocks.1.hook_resid_pre"};
  patch.select.rows = {0};
  patch.kind = api::CopyFromRow{1, std::nullopt};
  ExpectError(request, StatusCode::kInvalidArgument, "the source has only 3 tokens");
  patch.select.positions = api::Positions{int64_t{1}, int64_t{2}};
  patch.kind = api::CopyFromRow{1, api::Positions{int64_t{0}}};
  ExpectError(request, StatusCode::kInvalidArgument, "the counts must agree");
  patch.kind = api::CopyFromRow{7, std::nullopt};
  ExpectError(request, StatusCode::kInvalidArgument, "copy.row is 7");
  patch.kind = api::CopyFromRow{0, std::nullopt};
  ExpectError(request, StatusCode::kInvalidArgument, "cannot be its own source");
  patch.kind = api::CopyFromRow{1, std::nullopt};
  patch.select.sites = {"blocks.1.attn.hook_pattern"};
  ExpectError(request, StatusCode::kInvalidArgument, "one entry per key token");
  patch.select.sites = {"blocks.1.hook_q_input"};
  ExpectError(request, StatusCode::kFailedPrecondition, "read but not edited");
}

TEST(WavesTest, SourcesRunFirst) {
  EXPECT_EQ(*Waves({{2}, {}, {1}, {1, 2}}), (std::vector<std::vector<size_t>>{{1}, {2}, {0, 3}}));
  const absl::Status circle = Waves({{1}, {0}, {}}).status();
  EXPECT_EQ(circle.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(circle.message()), HasSubstr("rows 0, 1"));
}

TEST(GlobTest, MatchesLikeAShell) {
  EXPECT_TRUE(GlobMatches("blocks.*.hook_resid_pre", "blocks.12.hook_resid_pre"));
  EXPECT_FALSE(GlobMatches("blocks.?.hook_resid_pre", "blocks.12.hook_resid_pre"));
  EXPECT_TRUE(GlobMatches("*", "x"));
  EXPECT_TRUE(GlobMatches("**a*", "bab"));
  EXPECT_FALSE(GlobMatches("", "x"));
}

TEST_F(PlanTest, TheSamePlanHashesTheSame) {
  api::ForwardRequest a = Capturing({"blocks.2.hook_resid_pre"}), b = Capturing({"blocks.*.hook_resid_pre"});
  b.captures[0].select.layers = {-1};
  EXPECT_EQ(BuildPlan(*model_, a, {})->hash, BuildPlan(*model_, b, {})->hash);
  b.captures[0].select.layers = {-2};
  EXPECT_NE(BuildPlan(*model_, a, {})->hash, BuildPlan(*model_, b, {})->hash);
}

// A refused site does not hide in a glob, logits are refused with the norm before them, and a later good check brings them back.
TEST_F(PlanTest, RefusalsReachGlobsAndLogits) {
  model_->refused.Set(SitesRefusedFor({.residual = 1.0, .logits = 1.0}, at::kFloat));
  ExpectError(Capturing({"blocks.0.*"}), StatusCode::kFailedPrecondition, "hook_resid_pre");
  api::ForwardRequest request = Request();
  request.logits = api::LogitsRequest{};
  ExpectError(request, StatusCode::kFailedPrecondition, "logits: ");
  EXPECT_TRUE(BuildPlan(*model_, Capturing({"blocks.0.attn.hook_z"}), config::Limits()).ok());
  model_->refused.Set({});
  EXPECT_TRUE(BuildPlan(*model_, request, config::Limits()).ok());
}

TEST_F(PlanTest, LimitsWhatOneRequestMayName) {
  api::ForwardRequest request;
  for (int i = 0; i < 1000; ++i) request.prompts.push_back({api::TokenIds(60, 1), api::Bos::kDefault, false});
  api::Intervention patch;
  patch.select.sites = {"blocks.*.hook_resid_pre"};
  patch.kind = api::CopyFromRow{0, std::nullopt};
  request.interventions.assign(30, patch);
  ExpectError(request, StatusCode::kResourceExhausted, "65536");
}

// A row leaves behind what is read of it, and only read positions go past keys and values there; the estimate knows it.
TEST_F(PlanTest, StopsBehindWhatIsRead) {
  api::ForwardRequest request = Capturing({"blocks.1.hook_mlp_out"});
  const auto all = BuildPlan(*model_, request, config::Limits());
  request.captures[0].select.positions = api::Positions{int64_t{-1}};
  const auto last = BuildPlan(*model_, request, config::Limits());
  const auto later = BuildPlan(*model_, Capturing({"blocks.2.hook_mlp_out"}), config::Limits());
  ASSERT_TRUE(all.ok() && last.ok() && later.ok());
  const run::Point stop{1, model::Part::kMlp};
  EXPECT_TRUE(all->plan.rows[0].stop == stop && last->plan.rows[0].stop == stop);
  EXPECT_THAT(all->plan.rows[0].last_positions, testing::ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(last->plan.rows[0].last_positions, testing::ElementsAre(4));
  EXPECT_THAT(last->plan.rows[1].last_positions, testing::ElementsAre(2));
  EXPECT_LT(last->cost.flops, all->cost.flops);
  EXPECT_LT(all->cost.flops, later->cost.flops);
}

// The self-check itself: every identity holds on both families, and a broken model is found out and found again while it is refused.
TEST(IdentityCheckTest, FindsABrokenModelAgainAndAgain) {
  obs::Metrics metrics;
  const auto check = [&](const std::shared_ptr<const LoadedModel>& model) {
    absl::StatusOr<IdentityErrors> result = absl::UnknownError("not called");
    const auto work = *IdentityCheck::Create(model, metrics, [&](absl::StatusOr<IdentityErrors> errors) { result = std::move(errors); });
    while (work->Step() != sched::Work::Progress::kDone) {
    }
    return *result;
  };
  for (const auto& make : {model::TinyLlama, model::TinyGpt2}) {
    const std::shared_ptr<const LoadedModel> good = Offer(make(at::kCPU));
    EXPECT_TRUE(SitesRefusedFor(check(good), at::kFloat).empty());

    const auto broken = std::make_shared<model::Model>(*good->model);
    broken->weights.ln_final.weight = broken->weights.ln_final.weight.clone();
    broken->weights.ln_final.weight[3] = std::numeric_limits<float>::quiet_NaN();
    const std::shared_ptr<LoadedModel> bad = Offer(broken);
    for (int again = 0; again < 2; ++again) {
      const IdentityErrors errors = check(bad);
      EXPECT_TRUE(std::isnan(errors.logits));
      EXPECT_LT(errors.residual, 1e-6);
      bad->refused.Set(SitesRefusedFor(errors, at::kFloat));
      EXPECT_NE(bad->refused.Why(model::Site::kLnFinalNormalized), "");
    }
  }
}

// Whoever waits for the check may unload the model at once, and load it again into the memory that it had.
TEST(IdentityCheckTest, HoldsNothingOfTheModelWhenItIsDone) {
  obs::Metrics metrics;
  for (const bool aborted : {false, true}) {
    const std::shared_ptr<const LoadedModel> model = Offer(model::TinyLlama(at::kCPU));
    const long offered = model.use_count(), weights = model->model.use_count();
    std::vector<long> held;
    const auto work = *IdentityCheck::Create(model, metrics, [&](absl::StatusOr<IdentityErrors> errors) {
      EXPECT_EQ(errors.ok(), !aborted);
      held = {model.use_count(), model->model.use_count()};
    });
    EXPECT_GT(model.use_count(), offered);
    EXPECT_GT(model->model.use_count(), weights);
    if (aborted) {
      work->Step();
      work->Abort(absl::CancelledError("by the test"));
    } else {
      while (work->Step() != sched::Work::Progress::kDone) {
      }
    }
    EXPECT_EQ(held, (std::vector<long>{offered, weights}));
  }
}

// Top tokens of more positions than one step unembeds still come as one tensor.
TEST_F(PlanTest, TopTokensOfManyPositions) {
  auto model = std::make_shared<model::Model>(*model::TinyLlama());
  model->arch.context = 300;
  std::tie(model->rotary_cos, model->rotary_sin) = model::RotaryTables(model->arch, at::kFloat, at::kCPU);
  const auto offered = Offer(model);
  api::ForwardRequest request;
  request.prompts = {{RandomIds(61, 300), api::Bos::kDefault, false}};
  request.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};
  const at::Tensor logits = RunRequest(*offered, request)->Get("logits");
  ASSERT_EQ(logits.sizes(), at::IntArrayRef({300, 61}));
  request.logits->top_k = 4;
  const auto top = RunRequest(*offered, request);
  const auto [values, tokens] = at::topk(logits, 4, -1);
  EXPECT_TRUE(at::allclose(top->Get("top.logits"), values, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(top->Get("top.logprobs"), values - at::logsumexp(logits, -1, true), 1e-5, 1e-5));
  EXPECT_EQ(top->Get("top.tokens").sizes(), at::IntArrayRef({300, 4}));
}

// What is charged is what the allocator then sees, and never less.
TEST_F(PlanTest, EstimateCoversWhatIsAllocated) {
  tensor::InstallCountingAllocator();
  for (const auto& make : {model::TinyLlama, model::TinyGpt2}) {
    const auto model = Offer(make(at::kCPU));
    for (const std::vector<std::string>& sites :
         {std::vector<std::string>{}, {"*"}, {"blocks.*.hook_resid_pre"}, {"blocks.*.attn.hook_pattern"}, {"blocks.0.mlp.hook_post"}}) {
      api::ForwardRequest request;
      for (int i = 0; i < 20; ++i) request.prompts.push_back({RandomIds(50, 40), api::Bos::kDefault, false});
      if (!sites.empty()) request.captures = {CaptureOf(sites)};
      request.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};
      const uint64_t estimate = BuildPlan(*model, request, {})->cost.peak_bytes;
      const uint64_t seen = RunRequest(*model, request)->summary.peak_bytes;
      EXPECT_GE(estimate, seen);
      EXPECT_LE(static_cast<double>(estimate), 1.25 * static_cast<double>(seen) + (2 << 20));
    }
  }
}

// The same with edits, references and metrics of every family.
TEST_F(PlanTest, EstimateCoversEditsAndMetrics) {
  tensor::InstallCountingAllocator();
  const auto shared = [](const char* site, auto kind) {
    api::Intervention edit;
    edit.select.sites = {site};
    edit.kind = std::move(kind);
    return edit;
  };
  for (const auto& make : {model::TinyLlama, model::TinyGpt2}) {
    const auto model = Offer(make(at::kCPU));
    for (const char* site : {"blocks.*.hook_resid_pre", "blocks.*.mlp.hook_post", "blocks.1.attn.hook_attn_scores", "blocks.*.attn.hook_z"})
      for (const api::Intervention& edit : {shared(site, api::Noise{0.5, 1}), shared(site, api::MeanOfRows{{0, 1, 2}, {}}),
                                            shared(site, api::Interpolate{{0, {}}, 0.5}), shared(site, api::Scale{2})}) {
        api::ForwardRequest request;
        for (int i = 0; i < 25; ++i) request.prompts.push_back({RandomIds(50, 40), api::Bos::kDefault, false});
        request.interventions = {edit};
        request.metrics = {{"kl", {}, api::Positions{api::AllPositions()}, api::ToReference{api::ToReference::Measure::kKl, 0, {}}},
                           {"js", {}, {}, api::ToReference{api::ToReference::Measure::kJs, 0, {}}},
                           {"ce", {}, {}, api::CrossEntropy{}},
                           {"rank", {}, {}, api::Rank{int64_t{3}}},
                           {"diff", {}, {}, api::LogitDifference{{int64_t{1}}, {int64_t{2}}}}};
        const uint64_t estimate = BuildPlan(*model, request, {})->cost.peak_bytes;
        const auto run = RunRequest(*model, request);
        ASSERT_TRUE(run->status.ok()) << run->status;
        EXPECT_GE(estimate, run->summary.peak_bytes) << site << " kind " << edit.kind.index();
        EXPECT_LE(static_cast<double>(estimate), 1.25 * static_cast<double>(run->summary.peak_bytes) + (2 << 20));
      }
  }
}

TEST_F(PlanTest, RefusesWhatDoesNotFit) {
  const auto floats = [](std::vector<int64_t> shape) { return *tensor::ToChunk(at::ones(shape)); };
  api::ForwardRequest request = Request();
  request.interventions.resize(1);
  api::Intervention& edit = request.interventions[0];
  edit.select.sites = {"blocks.1.attn.hook_z"};
  edit.kind = api::Set{floats({3, 1})};
  ExpectError(request, StatusCode::kInvalidArgument, "the chosen part of blocks.1.attn.hook_z is [5, 4, ");
  edit.kind = api::Set{floats({4, 1})};
  EXPECT_TRUE(BuildPlan(*model_, request, {}).ok());
  edit.select.heads = {2, 1};
  edit.kind = api::Set{floats({2, 1})};
  ExpectError(request, StatusCode::kInvalidArgument, "select.heads must be written in ascending order");
  edit.select.heads = {};
  edit.select.positions = api::Positions{int64_t{2}, int64_t{1}};
  edit.kind = api::Set{floats({2, 1, 1})};
  ExpectError(request, StatusCode::kInvalidArgument, "select.positions must be written in ascending order");
  edit.kind = api::CopyFromRow{1, api::Positions{int64_t{1}, int64_t{0}}};
  edit.select.rows = {0};
  ExpectError(request, StatusCode::kInvalidArgument, "must be written in ascending order");
  edit.select = {};
  edit.select.sites = {"blocks.1.hook_resid_pre"};
  edit.select.units = {1000};
  edit.kind = api::Zero{};
  ExpectError(request, StatusCode::kInvalidArgument, "unit 1000 does not exist");
  edit.select.units = {};
  edit.kind = api::ProjectOut{floats({1, 3})};
  ExpectError(request, StatusCode::kInvalidArgument, "project_out.directions is [1, 3]; at blocks.1.hook_resid_pre");
  edit.kind = api::ProjectOut{*tensor::ToChunk(at::zeros({1, 3}))};
  ExpectError(request, StatusCode::kInvalidArgument, "all zero");
  edit.kind = api::ProjectOut{floats({4, 3})};
  ExpectError(request, StatusCode::kInvalidArgument, "never more than the space has dimensions");
  edit.kind = api::MeanOfRows{{0, 1}, {}};
  ExpectError(request, StatusCode::kInvalidArgument, "matches no row");
  edit.select.rows = {0};
  ExpectError(request, StatusCode::kInvalidArgument, "a mean that it is part of");
  edit.kind = api::Resample{{0}, 1, {}};
  ExpectError(request, StatusCode::kInvalidArgument, "a row cannot be its own source");
  edit.select.sites = {"blocks.1.attn.hook_attn_scores"};
  edit.kind = api::Interpolate{{1, api::Positions{int64_t{0}}}, 0.5};
  edit.select.positions = api::Positions{int64_t{1}};
  ExpectError(request, StatusCode::kInvalidArgument, "so that both see the same keys");
}

TEST_F(PlanTest, RefusesMetrics) {
  api::ForwardRequest request = Request();
  request.metrics = {{"m", {}, {}, api::ToReference{api::ToReference::Measure::kKl, 1, {}}}};
  ExpectError(request, StatusCode::kInvalidArgument, "the reference has only 3 tokens");
  request.metrics[0].rows = {1};
  ExpectError(request, StatusCode::kInvalidArgument, "cannot be its own reference");
  request.metrics = {{"m", {}, api::Positions{api::LastPosition()}, api::CrossEntropy{}}};
  ExpectError(request, StatusCode::kInvalidArgument, "has no next token");
  request.metrics[0].kind = api::Rank{int64_t{61}};
  ExpectError(request, StatusCode::kInvalidArgument, "metrics[0].rank.token");
  const auto direction = [](int64_t size) { return *tensor::ToChunk(at::ones({size})); };
  request.metrics[0].kind = api::ReadOut{"blocks.1.attn.hook_z", direction(3), {}};
  ExpectError(request, StatusCode::kInvalidArgument, "read_out.head is missing");
  request.metrics[0].kind = api::ReadOut{"blocks.1.hook_resid_pre", direction(3), {}};
  ExpectError(request, StatusCode::kInvalidArgument, "read_out.direction has 3 numbers");
  request.metrics[0].kind = api::ReadOut{"blocks.*.hook_resid_pre", direction(3), {}};
  ExpectError(request, StatusCode::kInvalidArgument, "matches 3 hook points");
  // Two rows that are each other's reference have no order.
  request = Request();
  request.metrics = {{"a", {0}, api::Positions{int64_t{0}}, api::ToReference{api::ToReference::Measure::kJs, 1, {}}},
                     {"b", {1}, api::Positions{int64_t{0}}, api::ToReference{api::ToReference::Measure::kJs, 0, {}}}};
  ExpectError(request, StatusCode::kInvalidArgument, "read other rows in a circle, among rows 0, 1");
  // All values come in one message.
  request = {};
  for (int i = 0; i < 1000; ++i) request.prompts.push_back({api::TokenIds(60, 1), api::Bos::kDefault, false});
  request.metrics = {{std::string(200, 'n'), {}, {}, api::CrossEntropy{}}};
  ExpectError(request, StatusCode::kResourceExhausted, "59000 values");
}

}  // namespace
}  // namespace fluoroscope::engine
