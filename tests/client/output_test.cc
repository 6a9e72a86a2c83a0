#include "client/cli/output.h"

#include <gtest/gtest.h>

namespace fluoroscope::cli {
namespace {

TEST(OutputTest, ColumnsLineUpInTerminalColumns) {
  Table table({{"TOKEN"}, {"ID", Align::kRight}, {"LAST"}});
  table.Add({"\" Paris\"", "7042", "x"});
  table.Add({"\"中文\"", "5", ""});
  table.Add({"\"é\"", "12345", "y"});
  EXPECT_EQ(table.ToString(false),
            "TOKEN        ID  LAST\n"
            "\" Paris\"   7042  x\n"
            "\"中文\"        5\n"
            "\"é\"       12345  y\n");
  EXPECT_EQ(table.ToString(true).substr(0, 9), "\x1b[1mTOKEN");
}

TEST(OutputTest, WidthsOfText) {
  EXPECT_EQ(DisplayWidth("abc"), 3u);
  EXPECT_EQ(DisplayWidth("é"), 1u);
  EXPECT_EQ(DisplayWidth("e\u0301"), 1u);
  EXPECT_EQ(DisplayWidth("中"), 2u);
  EXPECT_EQ(DisplayWidth("🙂"), 2u);
  EXPECT_EQ(DisplayWidth("\xFF\x80"), 1u);  // not UTF-8: anything but a crash
}

TEST(OutputTest, TokensShowTheirWhiteSpace) {
  EXPECT_EQ(Quoted(" a\n\t\"\x1b[0m"), "\" a\\n\\t\\\"\\u001b[0m\"");
  EXPECT_EQ(Quoted("\xFF"), "\"\xEF\xBF\xBD\"");
}

TEST(OutputTest, KnowsUtf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8(" \"é中🙂\\\n\xEF\xBF\xBD"));
  EXPECT_FALSE(IsUtf8("a\xFF"));
  EXPECT_FALSE(IsUtf8("\xE4\xB8"));
  EXPECT_FALSE(IsUtf8("\xED\xA0\x80"));  // half a surrogate pair
}

TEST(OutputTest, ShapesAndNumbers) {
  EXPECT_EQ(Shape({"pos", "head", "d_head"}, {-1, 9, 64}), "[pos, head=9, d_head=64]");
  EXPECT_EQ(Shape({}, {-1, 5}), "[…, 5]");
  EXPECT_EQ(Shape({}, {}), "[]");
  EXPECT_EQ(Count(999), "999");
  EXPECT_EQ(Count(134515008), "134.5M");
  EXPECT_EQ(Bytes(538060032), "513.1 MiB");
  EXPECT_EQ(Bytes(0), "0 B");
}

TEST(OutputTest, OneIsNoPlural) {
  EXPECT_EQ(Counted(0, "cell"), "0 cells");
  EXPECT_EQ(Counted(1, "cell"), "1 cell");
  EXPECT_EQ(Counted(420, "cell"), "420 cells");
}

}  // namespace
}  // namespace fluoroscope::cli
