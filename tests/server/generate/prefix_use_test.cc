// How much of a prompt may be taken from the prefix cache, and how much is left there.
#include "generate/prefix_use.h"

#include <gtest/gtest.h>

#include "config/config.h"
#include "engine/generate_builder.h"
#include "generate/decode_pool.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::generate {
namespace {

class PrefixUseTest : public testing::Test {
 protected:
  void SetUp() override { model_ = engine::Offer(model::TinyLlama()); }

  static api::GenerateRequest Request(int64_t length) {
    api::GenerateRequest request;
    request.model = "tiny";
    request.prompts.push_back({.input = engine::RandomIds(20, length)});
    request.max_new_tokens = 4;
    return request;
  }
  static api::Selection At(std::string site, int64_t position) {
    api::Selection select;
    select.sites = {std::move(site)};
    select.positions = api::Positions{api::PositionItem{position}};
    return select;
  }
  int64_t Skippable(const api::GenerateRequest& request) {
    absl::StatusOr<engine::BuiltGeneration> built = engine::BuildGeneration(model_, request, config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    return SkippablePositions(built->plan, built->plan.continuations.front());
  }

  std::shared_ptr<const engine::LoadedModel> model_;
};

TEST_F(PrefixUseTest, AllButTheLastPosition) {
  EXPECT_EQ(Skippable(Request(10)), 9);
  EXPECT_EQ(Skippable(Request(1)), 0);
}

TEST_F(PrefixUseTest, UpToTheFirstEdit) {
  api::GenerateRequest request = Request(10);
  request.interventions.push_back({.select = At("blocks.1.hook_resid_post", 6), .kind = api::Zero{}});
  EXPECT_EQ(Skippable(request), 6);
  request.interventions.push_back({.select = At("hook_embed", 2), .kind = api::Zero{}});
  EXPECT_EQ(Skippable(request), 2);
  request.interventions.front().select.positions.reset();  // all
  EXPECT_EQ(Skippable(request), 0);
}

TEST_F(PrefixUseTest, UpToTheFirstCapture) {
  api::GenerateRequest request = Request(10);
  request.captures.push_back({.select = At("blocks.0.hook_resid_pre", 4), .reduction = {}});
  EXPECT_EQ(Skippable(request), 4);
}

TEST_F(PrefixUseTest, NothingInIsolatedRuns) {
  api::GenerateRequest request = Request(10);
  request.isolated = true;
  EXPECT_EQ(Skippable(request), 0);
}

TEST_F(PrefixUseTest, NothingOfRowsThatOthersRead) {
  api::GenerateRequest request = Request(10);
  request.prompts.push_back(request.prompts.front());
  api::CopyFromRow copy;
  copy.row = 0;
  api::Selection select = At("blocks.1.hook_resid_post", 6);
  select.rows = {1};
  request.interventions.push_back({.select = select, .kind = copy});
  absl::StatusOr<engine::BuiltGeneration> built = engine::BuildGeneration(model_, request, config::Limits());
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(SkippablePositions(built->plan, built->plan.continuations[0]), 0);
  EXPECT_EQ(SkippablePositions(built->plan, built->plan.continuations[1]), 6);
}

}  // namespace
}  // namespace fluoroscope::generate
