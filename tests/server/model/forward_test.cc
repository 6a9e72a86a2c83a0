#include "model/forward.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/server/model/tiny_model.h"

namespace fluoroscope::model {
namespace {

// Wants everything and changes nothing; counts the sites it saw and checks their devices.
class WatchingHooks final : public SiteHooks {
 public:
  explicit WatchingHooks(at::Device device) : device_(device) {}
  bool Wants(Site, int64_t) const override { return true; }
  bool Wants(Site, int64_t, int64_t) const override { return true; }
  at::Tensor At(Site site, int64_t, const PackedRows& rows, at::Tensor value) override {
    EXPECT_EQ(value.size(0), rows.tokens()) << SpecOf(site).name;
    return Seen(site, std::move(value));
  }
  at::Tensor AtRow(Site site, int64_t, const RowSpan& row, at::Tensor value) override {
    EXPECT_EQ(value.size(PositionAxis(SpecOf(site))), row.size()) << SpecOf(site).name;
    return Seen(site, std::move(value));
  }
  int count = 0;

 private:
  at::Tensor Seen(Site site, at::Tensor value) {
    EXPECT_EQ(value.device().type(), device_.type()) << SpecOf(site).name;
    EXPECT_EQ(static_cast<size_t>(value.dim()), SpecOf(site).axes.size()) << SpecOf(site).name;
    ++count;
    return value;
  }
  at::Device device_;
};

PackedRows Rows(std::vector<int64_t> lengths) {
  std::vector<RowSpan> spans;
  for (int64_t length : lengths) {
    RowSpan span;
    span.slot = static_cast<int64_t>(spans.size());
    span.positions.resize(static_cast<size_t>(length));
    std::iota(span.positions.begin(), span.positions.end(), 0);
    spans.push_back(std::move(span));
  }
  return PackedRows(std::move(spans));
}

at::Tensor Logits(const Model& model, const at::Tensor& ids, const PackedRows& rows, SiteHooks& hooks) {
  at::Tensor x = Embed(model, ids, rows, hooks);
  for (int64_t l = 0; l < model.arch.layers; ++l) {
    x = AttentionPart(model, l, x, rows, rows, AnglesOf(model, rows), hooks);
    x = MlpPart(model, l, x, rows, hooks);
  }
  return Unembed(model, FinalNorm(model, x, rows, hooks), {});
}

// Nothing in the forward pass or its hooks makes a tensor on another device than the model's: on the meta device such a mix throws.
TEST(ForwardTest, RunsOnAnyDevice) {
  for (const auto& make : {TinyLlama, TinyGpt2}) {
    const std::shared_ptr<const Model> model = make(at::kMeta);
    WatchingHooks hooks(at::kMeta);
    const at::Tensor logits = Logits(*model, at::zeros({9}, at::kLong).to(at::kMeta), Rows({3, 6}), hooks);
    EXPECT_EQ(logits.device().type(), at::kMeta);
    EXPECT_EQ(logits.sizes(), at::IntArrayRef({9, model->arch.vocabulary}));
    EXPECT_GT(hooks.count, 15 * model->arch.layers);
  }
}

// Autograd must be able to go through the same forward: the gradient of a logit equals the slope found by moving the input.
TEST(ForwardTest, IsDifferentiable) {
  for (const auto& make : {TinyLlama, TinyGpt2}) {
    const std::shared_ptr<const Model> model = make(at::kCPU);
    WatchingHooks hooks(at::kCPU);
    const PackedRows rows = Rows({5});
    const auto run = [&](const at::Tensor& x) {
      const at::Tensor mid = AttentionPart(*model, 1, x, rows, rows, AnglesOf(*model, rows), hooks);
      return MlpPart(*model, 1, mid, rows, hooks).select(0, 4).sum();
    };
    const at::Tensor x = at::randn({5, model->arch.d_model}).set_requires_grad(true);
    run(x).backward();
    const at::Tensor direction = at::randn(x.sizes());
    const double step = 1e-2;
    const double slope = ((run(x.detach() + step * direction) - run(x.detach() - step * direction)) / (2 * step)).item<double>();
    const double gradient = (x.grad() * direction).sum().item<double>();
    EXPECT_NEAR(gradient, slope, 2e-2 * std::abs(slope) + 2e-2);
  }
}

// Keeping only some positions behind keys and values gives the values of those positions.
TEST(ForwardTest, KeptPositionsAreUnchanged) {
  const std::shared_ptr<const Model> model = TinyLlama();
  WatchingHooks hooks(at::kCPU);
  const PackedRows rows = Rows({4, 7});
  std::vector<RowSpan> spans = rows.rows();
  spans[0].positions = {1, 3};
  spans[1].positions = {6};
  const PackedRows keep(spans);
  const at::Tensor x = at::randn({11, model->arch.d_model});
  const at::Tensor all = AttentionPart(*model, 0, x, rows, rows, AnglesOf(*model, rows), hooks);
  const at::Tensor some = AttentionPart(*model, 0, x, rows, keep, AnglesOf(*model, rows), hooks);
  const at::Tensor expected = all.index_select(0, at::tensor({1, 3, 10}));
  EXPECT_LT((some - expected).abs().max().item<double>(), 1e-5);
}

}  // namespace
}  // namespace fluoroscope::model
