#include "base/byte_size.h"

#include <limits>

#include "gtest/gtest.h"

namespace fluoroscope {
namespace {

TEST(FormatBytes, SmallSizesAreExact) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1), "1 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
}

TEST(FormatBytes, EachUnitStartsAt1024OfTheLast) {
  EXPECT_EQ(FormatBytes(kKiB), "1.0 KiB");
  EXPECT_EQ(FormatBytes(kMiB), "1.0 MiB");
  EXPECT_EQ(FormatBytes(kGiB), "1.0 GiB");
  EXPECT_EQ(FormatBytes(kGiB * 1024), "1.0 TiB");
  EXPECT_EQ(FormatBytes(kGiB * kMiB), "1.0 PiB");
  EXPECT_EQ(FormatBytes(kGiB * kGiB), "1.0 EiB");
}

TEST(FormatBytes, OneDecimalIsCutOffNotRounded) {
  EXPECT_EQ(FormatBytes(kKiB + 512), "1.5 KiB");
  EXPECT_EQ(FormatBytes(3 * kGiB / 2), "1.5 GiB");
  EXPECT_EQ(FormatBytes(2 * kGiB - 1), "1.9 GiB");
  EXPECT_EQ(FormatBytes(kMiB - 1), "1023.9 KiB");
  EXPECT_EQ(FormatBytes(541'065'216), "516.0 MiB");
}

TEST(FormatBytes, TheLargestNumberDoesNotOverflow) { EXPECT_EQ(FormatBytes(std::numeric_limits<uint64_t>::max()), "15.9 EiB"); }

}  // namespace
}  // namespace fluoroscope
