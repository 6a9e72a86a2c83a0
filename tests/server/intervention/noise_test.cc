#include "intervention/noise.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fluoroscope::intervention {
namespace {

// The known answers of Random123, the authors' own library (kat_vectors, philox4x32 10).
TEST(NoiseTest, PhiloxKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(NoiseTest, IsStandardNormal) {
  double sum = 0, squares = 0, fourth = 0;
  int beyond = 0;
  constexpr int kBlocks = 50000;
  for (uint32_t block = 0; block < kBlocks; ++block)
    for (const float x : FourNormals({block, 3, 17, 0}, 42)) {
      ASSERT_TRUE(std::isfinite(x));
      sum += x;
      squares += x * x;
      fourth += x * x * x * x;
      beyond += std::abs(x) > 1.959964;
    }
  constexpr double kCount = 4.0 * kBlocks;
  EXPECT_NEAR(sum / kCount, 0, 0.01);
  EXPECT_NEAR(squares / kCount, 1, 0.02);
  EXPECT_NEAR(fourth / kCount, 3, 0.12);
  EXPECT_NEAR(beyond / kCount, 0.05, 0.003);
}

}  // namespace
}  // namespace fluoroscope::intervention
