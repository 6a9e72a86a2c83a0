// Captured values lie each in memory of its own: what a run is charged for is then what it holds while nobody reads.
#include <gtest/gtest.h>

#include <map>

#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::engine {
namespace {

// Runs, and expects that no two tensors overlap.
std::shared_ptr<CollectingSink> ExpectApart(const LoadedModel& model, const api::ForwardRequest& request) {
  std::shared_ptr<CollectingSink> sink = RunRequest(model, request);
  EXPECT_TRUE(sink->status.ok()) << sink->status;
  std::map<const std::byte*, const api::NamedTensor*> places;
  for (const api::NamedTensor& tensor : sink->tensors) {
    const auto [there, is_new] = places.emplace(tensor.data.bytes.data(), &tensor);
    EXPECT_TRUE(is_new) << tensor.name << " begins where " << there->second->name << " does";
  }
  const api::NamedTensor* before = nullptr;
  for (const auto& [place, tensor] : places) {
    if (before != nullptr) {
      EXPECT_LE(before->data.bytes.data() + before->data.bytes.size(), place) << before->name << " and " << tensor->name;
    }
    before = tensor;
  }
  return sink;
}

class CapturedMemoryTest : public testing::TestWithParam<bool> {
 protected:
  const std::unique_ptr<LoadedModel> model_ = Offer(GetParam() ? model::TinyGpt2() : model::TinyLlama());
  api::ForwardRequest request_;
};

// A layer's hook_resid_pre is the value that was the hook_resid_post before it.
TEST_P(CapturedMemoryTest, AllSites) {
  for (int rows = 1; rows <= 3; ++rows) {
    request_.prompts.push_back({RandomIds(model_->model->arch.vocabulary, 8)});
    request_.captures = {CaptureOf({"*"})};
    const auto sink = ExpectApart(*model_, request_);
    for (int row = 0; row < rows; ++row) {
      const auto index = static_cast<uint32_t>(row);
      EXPECT_TRUE(at::equal(sink->Get("blocks.1.hook_resid_pre", index), sink->Get("blocks.0.hook_resid_post", index)));
    }
  }
}

TEST_P(CapturedMemoryTest, ASiteThatIsCapturedTwice) {
  request_.prompts = {{RandomIds(model_->model->arch.vocabulary, 8)}};
  request_.captures = {CaptureOf({"blocks.0.hook_resid_post"}), CaptureOf({"blocks.0.hook_resid_post", "blocks.0.hook_mlp_out"})};
  const auto sink = ExpectApart(*model_, request_);
  ASSERT_EQ(sink->tensors.size(), 3u);
  EXPECT_EQ(sink->tensors[0].data.bytes.size(), sink->tensors[1].data.bytes.size());
}

INSTANTIATE_TEST_SUITE_P(Models, CapturedMemoryTest, testing::Bool(), [](const auto& of) { return of.param ? "Gpt2" : "Llama"; });

}  // namespace
}  // namespace fluoroscope::engine
