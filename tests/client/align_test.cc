#include "client/cli/align.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fluoroscope::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Align, EqualPrompts) { EXPECT_THAT(AlignTokens({1, 2, 3}, {1, 2, 3}), ElementsAre(0, 1, 2)); }

TEST(Align, AStretchOfTheSameLengthCorresponds) { EXPECT_THAT(AlignTokens({1, 2, 3, 4}, {1, 9, 8, 4}), ElementsAre(0, 1, 2, 3)); }

TEST(Align, NothingInCommon) {
  EXPECT_THAT(AlignTokens({1, 2}, {3, 4}), ElementsAre(0, 1));
  EXPECT_THAT(AlignTokens({1, 2, 3}, {4, 5}), ElementsAre(-1, -1));
}

TEST(Align, TokensThatOneLacks) {
  EXPECT_THAT(AlignTokens({1, 2, 3, 4, 5}, {1, 4, 5}), ElementsAre(0, 3, 4));
  EXPECT_THAT(AlignTokens({1, 4, 5}, {1, 2, 3, 4, 5}), ElementsAre(0, -1, -1, 1, 2));
  EXPECT_THAT(AlignTokens({4, 5}, {1, 4, 5, 6}), ElementsAre(-1, 0, 1, -1));
}

TEST(Align, OfEquallyLongStretchesTheFirst) { EXPECT_THAT(AlignTokens({7, 1, 7}, {7, 2, 2, 7}), ElementsAre(0, -1, -1, 2)); }

TEST(Align, Nothing) {
  EXPECT_THAT(AlignTokens({}, {}), IsEmpty());
  EXPECT_THAT(AlignTokens({}, {1}), ElementsAre(-1));
  EXPECT_THAT(AlignTokens({1}, {}), IsEmpty());
}

}  // namespace
}  // namespace fluoroscope::cli
