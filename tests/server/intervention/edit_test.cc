// Edits change their region and nothing else. That they give the right numbers in a forward pass is tests/numerics' matter.
#include "intervention/edit.h"

#include <gtest/gtest.h>

#include <limits>

namespace fluoroscope::intervention {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

class EditTest : public testing::Test {
 protected:
  // [position 5, head 3, unit 4]; region: positions 1 and 3, heads 0 and 2, units 1 and 2.
  EditTest() {
    at::manual_seed(3);
    value_ = at::randn({5, 3, 4});
    region_.head_axis = 1;
    region_.lines = {1, 3};
    region_.heads = {0, 2};
    region_.units = {1, 2};
  }
  // The whole value after the edit; checks that nothing outside the region changed.
  at::Tensor Applied(const Edit& edit, const std::vector<at::Tensor>& kept = {}) {
    at::Tensor out = value_.clone();
    Apply(edit, {kept, alive_}, region_, out);
    at::Tensor outside = out.clone();
    Write(outside, region_, Read(value_, region_));
    EXPECT_TRUE(outside.equal(value_));
    return Read(out, region_).clone();
  }
  at::Tensor own() const { return Read(value_, region_); }

  at::Tensor value_;
  Region region_;
  std::vector<int64_t> alive_ = {0, 1};
};

TEST_F(EditTest, ReadTakesLinesHeadsAndUnits) {
  ASSERT_EQ(own().sizes(), at::IntArrayRef({2, 2, 2}));
  EXPECT_EQ(own()[1][1][0].item<float>(), value_[3][2][1].item<float>());
}

TEST_F(EditTest, PlainKinds) {
  EXPECT_TRUE(Applied(Zero{}).equal(at::zeros({2, 2, 2})));
  EXPECT_TRUE(Applied(Scale{-2}).equal(own() * -2));
  const at::Tensor units = at::arange(2, at::kFloat);
  EXPECT_TRUE(Applied(Set{units}).equal(units.expand({2, 2, 2})));
  EXPECT_TRUE(Applied(Set{at::scalar_tensor(7.0, at::kFloat)}).equal(at::full({2, 2, 2}, 7.0)));
  const at::Tensor positions = at::arange(2, at::kFloat).view({2, 1, 1});
  EXPECT_TRUE(Applied(Add{positions}).equal(own() + positions));
}

TEST_F(EditTest, PositionsThatHaveLeftAreLeftOut) {
  // Made for four positions, of which the second and the last are still there.
  alive_ = {1, 3};
  const at::Tensor made = at::arange(4, at::kFloat).view({4, 1, 1});
  EXPECT_TRUE(Applied(Set{made}).equal(made.index({at::tensor({1, 3})}).expand({2, 2, 2})));
  const at::Tensor kept = at::randn({4, 2, 2});
  EXPECT_TRUE(Applied(Copy{0}, {kept}).equal(kept.index({at::tensor({1, 3})})));
  EXPECT_TRUE(Applied(Interpolate{0, 1}, {kept}).equal(kept.index({at::tensor({1, 3})})));
}

TEST_F(EditTest, KindsWithSources) {
  const at::Tensor kept = at::randn({2, 2, 2}), longer = at::randn({7, 2, 2});
  EXPECT_TRUE(Applied(Interpolate{0, 0}, {kept}).equal(own()));
  EXPECT_TRUE(at::allclose(Applied(Interpolate{0, 0.25}, {kept}), own() * 0.75 + kept * 0.25));
  const Mean mean{std::make_shared<Mean::Reference>(Mean::Reference{{0, 1}, {}})};
  EXPECT_TRUE(at::allclose(Applied(mean, {kept, longer}), at::cat({kept, longer}).mean(0, true).expand({2, 2, 2})));
  const at::Tensor basis = at::tensor({0.6f, 0.8f}).view({1, 2});
  EXPECT_TRUE(at::allclose(at::matmul(Applied(ProjectOut{basis}), basis.t()), at::zeros({2, 2, 1}), 0, 1e-6));
  const at::Tensor swapped = Applied(SwapSubspace{0, basis}, {kept});
  EXPECT_TRUE(at::allclose(at::matmul(swapped, basis.t()), at::matmul(kept, basis.t()), 1e-5, 1e-6));
  const at::Tensor across = at::tensor({0.8f, -0.6f}).view({2, 1});
  EXPECT_TRUE(at::allclose(at::matmul(swapped, across), at::matmul(own(), across), 1e-5, 1e-6));
}

TEST_F(EditTest, NoiseDependsOnThePlaceAlone) {
  const Noise noise{0.5, 11, 2, 16 | 4 << 8, {1, 3}};
  const at::Tensor part = Applied(noise) - own();
  region_.heads = region_.units = {};
  const at::Tensor whole = Applied(noise) - own();
  region_.heads = {0, 2};
  region_.units = {1, 2};
  EXPECT_TRUE(at::allclose(part, whole.index_select(1, at::tensor({0, 2})).index_select(2, at::tensor({1, 2})), 0, 1e-6));
  Noise other = noise;
  other.row = 3;
  EXPECT_FALSE(at::allclose(Applied(other) - own(), part, 0, 1e-3));
}

// Of scores [head, query, key] the masked entries stay masked, and no arithmetic with them spreads.
TEST_F(EditTest, MaskedScoresStayMasked) {
  at::Tensor scores = at::randn({2, 4, 4});
  const at::Tensor hidden = at::ones({4, 4}, at::kBool).triu(1);
  scores.masked_fill_(hidden, kMasked);
  Region all;
  all.position_axis = 1;
  all.head_axis = 0;
  all.lines = {0, 1, 2, 3};
  all.masked = true;
  const std::vector<int64_t> alive = {0, 1, 2, 3};
  const std::vector<at::Tensor> kept = {scores * 2};
  const at::Tensor basis = at::full({1, 4}, 0.5);
  const Mean mean{std::make_shared<Mean::Reference>(Mean::Reference{{0}, {}})};
  const Edit edits[] = {Zero{},
                        Set{at::ones({4})},
                        Add{at::ones({4})},
                        Scale{0},
                        Interpolate{0, 0.5},
                        ProjectOut{basis},
                        Noise{1, 2, 0, 0, {0, 1, 2, 3}},
                        SwapSubspace{0, basis},
                        mean};
  for (const Edit& edit : edits) {
    at::Tensor out = scores.clone();
    Apply(edit, {kept, alive}, all, out);
    EXPECT_TRUE(out.eq(kMasked).equal(hidden.expand({2, 4, 4}))) << edit.index();
    EXPECT_TRUE(at::masked_select(out, hidden.logical_not()).isfinite().all().item<bool>()) << edit.index();
  }
  at::Tensor out = scores.clone();
  Apply(mean, {kept, alive}, all, out);
  EXPECT_NEAR(out[0][3][2].item<float>(), (kept[0][0][2][2] + kept[0][0][3][2]).item<float>() / 2, 1e-6) << "two queries see key 2";
}

TEST_F(EditTest, HalfPrecisionIsCalculatedInFloat) {
  value_ = value_.to(at::kBFloat16);
  EXPECT_TRUE(Applied(Scale{1}).equal(own()));
  EXPECT_TRUE(Applied(Scale{0.3}).equal((own().to(at::kFloat) * 0.3).to(at::kBFloat16)));
}

}  // namespace
}  // namespace fluoroscope::intervention
