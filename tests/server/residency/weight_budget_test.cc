#include "residency/weight_budget.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace fluoroscope::residency {
namespace {

TEST(WeightBudgetTest, ChargesUntilItIsFullAndTakesBack) {
  WeightBudget budget(10);
  auto six = budget.TryCharge(6);
  ASSERT_NE(six, nullptr);
  EXPECT_EQ(budget.TryCharge(5), nullptr);
  auto four = budget.TryCharge(4);
  ASSERT_NE(four, nullptr);
  EXPECT_EQ(budget.charged_bytes(), 10u);
  six.reset();
  EXPECT_EQ(budget.charged_bytes(), 4u);
  EXPECT_NE(budget.TryCharge(6), nullptr);
}

TEST(WeightBudgetTest, OverTheLimitNothingMoreFits) {
  WeightBudget budget(10);
  const auto over = budget.ChargeAnyway(25);
  EXPECT_EQ(budget.charged_bytes(), 25u);
  EXPECT_EQ(budget.TryCharge(0), nullptr);
}

TEST(WeightBudgetTest, AChargeMayOutliveIt) {
  std::shared_ptr<const WeightBudget::Charge> charge;
  {
    WeightBudget budget(10);
    charge = budget.TryCharge(3);
  }
  EXPECT_EQ(charge->bytes(), 3u);
}

TEST(WeightBudgetTest, ManyThreadsNeverGoOver) {
  WeightBudget budget(100);
  std::atomic<uint64_t> held{0}, most{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          const auto charge = budget.TryCharge(30);
          if (charge == nullptr) continue;
          const uint64_t now = held += 30;
          for (uint64_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
          }
          held -= 30;
        }
      });
  }
  EXPECT_LE(most, 100u);
  EXPECT_EQ(budget.charged_bytes(), 0u);
}

}  // namespace
}  // namespace fluoroscope::residency
