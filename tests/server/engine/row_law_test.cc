// The laws of the row engine, on small random models: a row gives the same numbers alone and in any batch, and what one row asks for is
// nobody else's business.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/plan_builder.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::engine {
namespace {

class RowLawTest : public testing::TestWithParam<std::shared_ptr<const model::Model> (*)(at::Device)> {
 protected:
  void SetUp() override {
    model_ = Offer(GetParam()(at::kCPU));
    at::manual_seed(11);
  }
  api::ForwardRequest Request(std::vector<int64_t> lengths) const {
    api::ForwardRequest request;
    for (int64_t length : lengths)
      request.prompts.push_back({RandomIds(model_->model->arch.vocabulary, length), api::Bos::kDefault, false});
    return request;
  }
  static api::LogitsRequest AllLogits() { return {api::Positions{api::AllPositions()}, {}, 0, {}}; }
  static double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
    // Scores hold -inf; where both do, they agree.
    return at::where(at::eq(a, b), at::zeros({}), (a - b).abs()).max().item<double>();
  }
  std::unique_ptr<LoadedModel> model_;
};

TEST_P(RowLawTest, AloneEqualsInABatch) {
  api::ForwardRequest batch = Request({5, 9, 9, 1, 14, 5});
  batch.captures = {CaptureOf({"*"})};
  batch.logits = AllLogits();
  const auto together = RunRequest(*model_, batch);
  ASSERT_TRUE(together->status.ok()) << together->status;
  for (uint32_t row = 0; row < batch.prompts.size(); ++row) {
    api::ForwardRequest single = batch;
    single.prompts = {batch.prompts[row]};
    const auto alone = RunRequest(*model_, single);
    ASSERT_TRUE(alone->status.ok()) << alone->status;
    for (const api::NamedTensor& tensor : alone->tensors)
      EXPECT_LT(MaxDifference(alone->Get(tensor.name), together->Get(tensor.name, row)), 1e-5) << tensor.name << " row " << row;
  }
}

// Fused and explicit attention agree; what is captured is what the logits came from.
TEST_P(RowLawTest, LookingChangesNothing) {
  api::ForwardRequest plain = Request({8, 3});
  plain.logits = AllLogits();
  api::ForwardRequest looking = plain;
  looking.captures = {CaptureOf({"*"})};
  const auto a = RunRequest(*model_, plain), b = RunRequest(*model_, looking);
  for (uint32_t row : {0u, 1u}) EXPECT_LT(MaxDifference(a->Get("logits", row), b->Get("logits", row)), 1e-5);
}

TEST_P(RowLawTest, HooksOnOneRowLeaveTheBitsOfOthersAlone) {
  api::ForwardRequest plain = Request({6, 6, 6, 4});
  plain.logits = AllLogits();
  plain.captures = {CaptureOf({"blocks.*.hook_resid_post"}, {1, 2, 3})};
  api::ForwardRequest hooked = plain;
  hooked.captures.push_back(CaptureOf({"blocks.*.attn.hook_pattern", "blocks.*.attn.hook_result", "blocks.*.mlp.hook_post"}, {1}));
  api::Intervention patch;
  patch.select.sites = {"blocks.*.attn.hook_z"};
  patch.select.rows = {1};
  patch.kind = api::CopyFromRow{0, std::nullopt};
  // Row 0 must run before row 1 in both, so that the batches are the same.
  hooked.interventions = {patch};
  api::Intervention nothing = patch;
  nothing.select.sites = {"blocks.0.attn.hook_z"};
  nothing.select.rows = {1};
  plain.interventions = {nothing};
  const auto a = RunRequest(*model_, plain), b = RunRequest(*model_, hooked);
  ASSERT_TRUE(a->status.ok() && b->status.ok()) << b->status;
  for (uint32_t row : {0u, 2u, 3u}) EXPECT_TRUE(at::equal(a->Get("logits", row), b->Get("logits", row))) << row;
  for (uint32_t row : {2u, 3u}) EXPECT_TRUE(at::equal(a->Get("blocks.1.hook_resid_post", row), b->Get("blocks.1.hook_resid_post", row)));
  EXPECT_FALSE(at::equal(a->Get("logits", 1), b->Get("logits", 1)));
}

// Reading less gives the same values: positions in the last layer, early stops, chosen heads and columns.
TEST_P(RowLawTest, SelectionsEqualSlicesOfEverything) {
  const int64_t last_layer = model_->model->arch.layers - 1;
  api::ForwardRequest everything = Request({10});
  everything.captures = {CaptureOf({"*"})};
  everything.logits = AllLogits();
  const auto full = RunRequest(*model_, everything);

  for (int64_t layer : {int64_t{0}, last_layer}) {
    for (const char* site : {"hook_resid_pre", "attn.hook_z", "attn.hook_k", "hook_resid_mid", "mlp.hook_post", "hook_resid_post"}) {
      const std::string name = "blocks." + std::to_string(layer) + "." + site;
      api::ForwardRequest some = everything;
      some.logits.reset();
      some.captures = {CaptureOf({name})};
      some.captures[0].select.positions = api::Positions{int64_t{2}, int64_t{-1}};
      const auto part = RunRequest(*model_, some);
      ASSERT_TRUE(part->status.ok()) << part->status;
      EXPECT_LT(MaxDifference(part->Get(name), full->Get(name).index_select(0, at::tensor({2, 9}))), 1e-5) << name;
    }
  }
  api::ForwardRequest columns = everything;
  columns.captures.clear();
  columns.logits = api::LogitsRequest{api::Positions{int64_t{3}, api::LastPosition()}, {int64_t{7}, int64_t{1}}, 0, {}};
  const at::Tensor expected = full->Get("logits").index_select(0, at::tensor({3, 9})).index_select(1, at::tensor({7, 1}));
  EXPECT_LT(MaxDifference(RunRequest(*model_, columns)->Get("logits"), expected), 1e-5);

  api::ForwardRequest heads = everything;
  heads.captures = {CaptureOf({"blocks.1.attn.hook_pattern"})};
  heads.captures[0].select.heads = {2, 0};
  EXPECT_LT(MaxDifference(RunRequest(*model_, heads)->Get("blocks.1.attn.hook_pattern"),
                          full->Get("blocks.1.attn.hook_pattern").index_select(0, at::tensor({0, 2}))),
            1e-5);
}

TEST_P(RowLawTest, ReductionsEqualReducingAfterwards) {
  api::ForwardRequest request = Request({7});
  const std::string name = "blocks.1.hook_resid_mid";
  request.captures = {CaptureOf({name})};
  const at::Tensor value = RunRequest(*model_, request)->Get(name);

  request.captures[0].reduction = api::ReduceTopK{3};
  const auto top = RunRequest(*model_, request);
  const auto [values, indices] = at::topk(value, 3, -1);
  EXPECT_TRUE(at::equal(top->Get(name, 0, "values"), values));
  EXPECT_TRUE(at::equal(top->Get(name, 0, "indices"), indices));

  request.captures[0].reduction = api::ReduceLast();
  EXPECT_LT(MaxDifference(RunRequest(*model_, request)->Get(name), value.narrow(0, 6, 1)), 1e-5);
}

// Copying a row's own value changes nothing; copying everything at resid_pre makes the target the source.
TEST_P(RowLawTest, CopyFromRow) {
  api::ForwardRequest request = Request({6, 6});
  request.prompts.push_back(request.prompts[1]);
  request.logits = AllLogits();
  api::Intervention patch;
  patch.select.sites = {"blocks.1.*"};
  patch.select.rows = {2};
  patch.kind = api::CopyFromRow{1, std::nullopt};
  // Only what can be edited in this model.
  patch.select.sites = {"blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_result", "blocks.1.ln2.hook_scale",
                        "blocks.1.mlp.hook_pre"};
  request.interventions = {patch};
  const auto own = RunRequest(*model_, request);
  ASSERT_TRUE(own->status.ok()) << own->status;
  EXPECT_LT(MaxDifference(own->Get("logits", 2), own->Get("logits", 1)), 1e-5);
  EXPECT_THAT(own->summary.warnings, testing::Contains(testing::HasSubstr("same tokens")));

  patch.select.sites = {"blocks.0.hook_resid_pre"};
  patch.kind = api::CopyFromRow{0, std::nullopt};
  request.interventions = {patch};
  const auto whole = RunRequest(*model_, request);
  EXPECT_LT(MaxDifference(whole->Get("logits", 2), whole->Get("logits", 0)), 1e-5);
  EXPECT_GT(MaxDifference(whole->Get("logits", 1), whole->Get("logits", 0)), 1e-2);
}

TEST_P(RowLawTest, MetricEqualsLogits) {
  api::ForwardRequest request = Request({6, 4});
  request.logits = AllLogits();
  request.metrics = {{"d", {}, std::nullopt, api::LogitDifference{{int64_t{3}, int64_t{5}}, {int64_t{8}}}}};
  const auto result = RunRequest(*model_, request);
  ASSERT_EQ(result->summary.metrics.size(), 2u);
  for (const api::MetricValue& metric : result->summary.metrics) {
    const at::Tensor last = result->Get("logits", metric.row)[metric.row == 0 ? 5 : 3];
    EXPECT_NEAR(metric.value, ((last[3] + last[5]) / 2 - last[8]).item<double>(), 1e-5);
  }
}

TEST_P(RowLawTest, IsolatedRunsRepeatBitForBit) {
  api::ForwardRequest request = Request({6, 9, 6});
  request.isolated = true;
  request.logits = AllLogits();
  const auto first = RunRequest(*model_, request);
  api::ForwardRequest alone = request;
  alone.prompts = {request.prompts[2]};
  const auto again = RunRequest(*model_, alone);
  EXPECT_TRUE(at::equal(first->Get("logits", 2), again->Get("logits", 0)));
}

// Pay only for what you hook: with the weights behind the last thing that is read gone, nothing changes.
TEST_P(RowLawTest, WhatNobodyReadsIsNotRun) {
  api::ForwardRequest request = Request({6, 3});
  request.captures = {CaptureOf({"hook_embed", "blocks.0.attn.*", "blocks.0.hook_attn_out"})};
  const auto whole = RunRequest(*model_, request);
  ASSERT_TRUE(whole->status.ok()) << whole->status;

  auto cut = std::make_shared<model::Model>(*model_->model);
  const model::Linear gone{at::empty({0}), {}};
  model::Weights& weights = cut->weights;
  weights.blocks[0].mlp_in = weights.blocks[0].mlp_out = weights.unembed = gone;
  weights.ln_final.weight = gone.weight;
  for (size_t l = 1; l < weights.blocks.size(); ++l) weights.blocks[l] = {{gone.weight, {}}, gone, gone, {gone.weight, {}}, gone, gone};
  const std::unique_ptr<LoadedModel> offered = Offer(cut);
  const auto part = RunRequest(*offered, request);
  ASSERT_TRUE(part->status.ok()) << part->status;
  ASSERT_EQ(part->tensors.size(), whole->tensors.size());
  for (const api::NamedTensor& tensor : whole->tensors)
    EXPECT_TRUE(at::equal(part->Get(tensor.name, tensor.row), whole->Get(tensor.name, tensor.row))) << tensor.name;

  request.captures = {CaptureOf({"blocks.0.hook_mlp_out"})};
  EXPECT_FALSE(RunRequest(*offered, request)->status.ok()) << "or missing weights would not show";
}

INSTANTIATE_TEST_SUITE_P(Families, RowLawTest, testing::Values(model::TinyLlama, model::TinyGpt2),
                         [](const auto& info) { return info.index == 0 ? "Llama" : "Gpt2"; });

}  // namespace
}  // namespace fluoroscope::engine
