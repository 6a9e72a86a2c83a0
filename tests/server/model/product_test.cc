#include "model/product.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace fluoroscope::model {
namespace {

// Row counts of every kernel, with a bias and without. Recorded or not, the product has the same bits: what an attribution starts from is
// what a forward pass gives. The gradient is taken twice: a graph that is kept may be gone through again.
TEST(ProductTest, EveryKernelIsTheProductAndAutogradGoesBackThroughIt) {
  at::manual_seed(5);
  const c10::AutoGradMode gradients(true);
  const at::Tensor weight = at::randn({50, 33});
  for (const at::Tensor& bias : {at::Tensor(), at::randn({50})})
    for (const int64_t rows : {1, 9, 14, 15, 32, 33, 48, 49, 300}) {
      const at::Tensor x = at::randn({rows, 33}).set_requires_grad(true), seed = at::randn({rows, 50});
      const at::Tensor y = Product(x * 2, weight, bias);
      EXPECT_TRUE(at::equal(y.detach(), Product(x.detach() * 2, weight, bias))) << rows;
      EXPECT_TRUE(at::allclose(y.detach(), at::linear(x.detach() * 2, weight, bias), 1e-5, 1e-5)) << rows;
      for (const bool keep : {true, false}) {
        const at::Tensor found = torch::autograd::grad({y}, {x}, {seed}, keep).front();
        EXPECT_TRUE(at::allclose(found, 2 * at::matmul(seed, weight), 1e-5, 1e-5)) << rows;
      }
      // A gradient that is one number expanded.
      const at::Tensor of_sum = torch::autograd::grad({Product(x, weight, bias).sum()}, {x}).front();
      EXPECT_TRUE(at::allclose(of_sum, weight.sum(0).expand({rows, 33}), 1e-5, 1e-5)) << rows;
    }
}

TEST(ProductTest, AProductInBfloat16KeepsItsCallersType) {
  const at::Tensor x = at::randn({4, 8}), weight = at::randn({6, 8}).to(at::kBFloat16);
  const at::Tensor y = Product(x, weight, {});
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(y, at::linear(x.to(at::kBFloat16), weight).to(at::kFloat)));
}

}  // namespace
}  // namespace fluoroscope::model
