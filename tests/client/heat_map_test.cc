#include "client/cli/heat_map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "client/cli/notation.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

HeatMap Small() {
  HeatMap map;
  map.row_title = "layer";
  map.column_title = "position";
  map.rows = {"1", "0"};
  map.columns = {"0 The", "1 capital"};
  map.values = {-1, 0.25, 1, std::nan("")};
  return map;
}

// The text without its escape sequences.
std::string Bare(const std::string& text) {
  std::string bare;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\x1b') {
      at = text.find('m', at);
    } else {
      bare += text[at];
    }
  }
  return bare;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

TEST(HeatMapTest, NumbersStandInTheirCells) {
  EXPECT_EQ(Lines(Bare(Draw(Small(), Palette::k24Bit, 80))),
            (std::vector<std::string>{" layer position", "       0 The", "              1 capital", "     1  -1.00   0.25 ",
                                      "     0   1.00    nan "}));
}

TEST(HeatMapTest, ColoursAreRedWhiteBlue) {
  const std::string text = Draw(Small(), Palette::k24Bit, 80);
  EXPECT_NE(text.find("\x1b[48;2;103;0;31;38;5;231m"), std::string::npos);  // -1: dark red, white text
  EXPECT_NE(text.find("\x1b[48;2;5;48;97;38;5;231m"), std::string::npos);   // 1: dark blue
  EXPECT_NE(text.find("\x1b[48;2;128;128;128;38;5;231m"), std::string::npos) << "no number: grey";
  const std::string cube = Draw(Small(), Palette::k256, 80);
  EXPECT_NE(cube.find("\x1b[48;5;88;38;5;231m"), std::string::npos);
  EXPECT_EQ(cube.find("48;2;"), std::string::npos);
  EXPECT_NE(Legend(Small(), Palette::k256).find("-1.00 \x1b"), std::string::npos);
}

TEST(HeatMapTest, WithoutAMiddleThereAreNoColours) {
  HeatMap map = Small();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double centre : {std::nan(""), infinity, -infinity}) {
    map.centre = centre;
    map.values = {-1, infinity, -infinity, std::nan("")};
    for (const Palette palette : {Palette::k24Bit, Palette::k256}) {
      const std::string text = Draw(map, palette, 80) + Legend(map, palette),
                        grey = palette == Palette::k256 ? "\x1b[48;5;244;" : "128;128;128";
      EXPECT_NE(text.find(grey), std::string::npos);
      EXPECT_NE(Bare(text).find("-1.00"), std::string::npos);
    }
  }
  map.centre = std::nan("");
  for (const int step : {88, 231, 17})
    EXPECT_EQ(Draw(map, Palette::k256, 80).find("\x1b[48;5;" + std::to_string(step) + ";"), std::string::npos) << "all are grey";
}

TEST(HeatMapTest, WideMapsComeInPieces) {
  HeatMap map;
  map.row_title = "head";
  map.rows = {"0", "1"};
  for (int i = 0; i < 100; ++i) map.columns.push_back(std::to_string(i));
  map.values.assign(200, 0.5);
  for (const size_t width : {10u, 40u, 80u, 300u}) {
    size_t rows = 0;
    for (const std::string& line : Lines(Bare(Draw(map, Palette::k256, width)))) {
      EXPECT_LE(DisplayWidth(line), std::max<size_t>(width, 14)) << line;
      rows += line.starts_with("    0 ") ? 1 : 0;
    }
    EXPECT_GE(rows, width == 300 ? 1 : 2) << width;
  }
}

TEST(HeatMapTest, PlainNumbersAreATable) {
  EXPECT_EQ(DrawPlain(Small()),
            "layer   0 The  1 capital\n"
            "    1  -1.000      0.250\n"
            "    0   1.000        nan\n");
}

HeatMap Texts() {
  HeatMap map;
  map.row_title = "layer";
  map.column_title = "position";
  map.rows = {"0", "1"};
  map.columns = {"0 a", "1 b"};
  map.values = {0, 0.25, 0.5, 1};
  map.texts = {"the", "Paris", "\"  \"", "Antidisestablishment"};
  return map;
}

TEST(HeatMapTest, CellsMayBeTexts) {
  HeatMap map = Texts();
  TurnRows(map);
  EXPECT_EQ(DrawPlain(map),
            "layer        0 a                        1 b\n"
            "    1  \"  \" 0.50  Antidisestablishment 1.00\n"
            "    0   the 0.00                 Paris 0.25\n");
  const std::vector<std::string> lines = Lines(Bare(Draw(map, Palette::k256, 80)));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[2], "     1  \"  \"        Antidisest…");
  EXPECT_EQ(lines[3], "     0  the         Paris      ");
}

TEST(HeatMapTest, TokensAreReadable) {
  EXPECT_EQ(PositionLabel("9: John"), "9 John");
  EXPECT_EQ(PositionLabel("0:When"), "0 When");
  EXPECT_EQ(PositionLabel("7"), "7");
  EXPECT_EQ(PositionLabel("subject"), "subject");
  EXPECT_EQ(PositionLabel("2:\n"), "2 \\n");
  EXPECT_EQ(PositionLabel("2: "), "2 \" \"");
  EXPECT_EQ(PositionLabel("3::"), "3 :");
  EXPECT_EQ(PositionLabel("3:\u00a0x\u00a0"), "3 \\u00a0x\\u00a0");
  EXPECT_EQ(PositionLabel("4:\x1b[2J"), "4 \\u001b[2J");
}

TEST(SweepRequestTest, ListsOfNumbers) {
  EXPECT_EQ(*ParseNumbers("3"), (std::vector<int32_t>{3}));
  EXPECT_EQ(*ParseNumbers("0,2,5-7,-1"), (std::vector<int32_t>{0, 2, 5, 6, 7, -1}));
  EXPECT_EQ(*ParseNumbers("-3--1"), (std::vector<int32_t>{-3, -2, -1}));
  for (const char* wrong : {"", ",", "1,", "a", "1-", "5-2", "1.5", "1 2", "99999999999", "0-2000000000", "--1"})
    EXPECT_EQ(ParseNumbers(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
}

TEST(SweepRequestTest, SitesByTheirShortNames) {
  EXPECT_EQ(SiteName("resid_pre"), "hook_resid_pre");
  EXPECT_EQ(SiteName("z"), "attn.hook_z");
  EXPECT_EQ(SiteName("post"), "mlp.hook_post");
  EXPECT_EQ(SiteName("blocks.*.attn.hook_q"), "attn.hook_q");
  EXPECT_EQ(SiteName("ln1.hook_scale"), "ln1.hook_scale");
}

}  // namespace
}  // namespace fluoroscope::cli
