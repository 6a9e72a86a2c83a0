// Heat maps for the terminal: each cell a coloured block with its number where there is room.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace fluoroscope::cli {

enum class Palette { kNone, k256, k24Bit };

// What the stream shows: nothing but text unless it is a terminal (and NO_COLOR is not set), else as many colours as TERM and COLORTERM
// say.
Palette PaletteOf(FILE* stream);
// Columns of the terminal behind the stream; 80 where there is none.
size_t WidthOf(FILE* stream);

struct HeatMap {
  std::string row_title, column_title;
  std::vector<std::string> rows, columns;  // labels, the first row on top
  std::vector<double> values;              // row-major [rows, columns]
  std::vector<std::string> texts;          // the same: what cells say instead of their value's number; empty: the numbers
  // The middle of the colours and how far from it they reach: centre - reach is all red, centre + reach all blue.
  double centre = 0, reach = 1;
};

// Coloured cells in at most `width` columns; a map that is too wide comes in several pieces, one below the other.
std::string Draw(const HeatMap& map, Palette palette, size_t width);
// The last row on top: for layers, which run from the bottom to the top, as the residual stream is drawn.
void TurnRows(HeatMap& map);
// The same numbers as a table, behind the texts where there are some.
std::string DrawPlain(const HeatMap& map);
// What the colours mean: "-1.00 ▇▇▇ 1.00" on one line.
std::string Legend(const HeatMap& map, Palette palette);

// A position's label as it is read: "9: John" becomes "9 John".
std::string PositionLabel(const std::string& label);

}  // namespace fluoroscope::cli
