#include "client/cli/heat_map.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

struct Colour {
  double red, green, blue;
};

// From red over white to blue, as the Python SDK's plots: blue is towards the source run.
constexpr std::array<Colour, 11> kScale = {{{103, 0, 31},
                                            {178, 24, 43},
                                            {214, 96, 77},
                                            {244, 165, 130},
                                            {253, 219, 199},
                                            {247, 247, 247},
                                            {209, 229, 240},
                                            {146, 197, 222},
                                            {67, 147, 195},
                                            {33, 102, 172},
                                            {5, 48, 97}}};
constexpr Colour kNoNumber = {128, 128, 128};
constexpr size_t kMaxCell = 7, kNumberCell = 5, kMaxTextCell = 12, kMaxLabel = 24, kMaxLabelLines = 6;

// Where on the scale, from 0 to its last step; NaN where the value is no number, or the map's centre is none.
double Share(const HeatMap& map, double value) {
  const double share = (value - map.centre) / map.reach * 0.5 + 0.5;
  return std::isnan(share) ? share : std::clamp(share, 0.0, 1.0) * (kScale.size() - 1);
}

Colour ColourOf(const HeatMap& map, double value) {
  const double share = Share(map, value);
  if (std::isnan(share)) return kNoNumber;
  const size_t low = std::min(static_cast<size_t>(share), kScale.size() - 2);
  const double t = share - static_cast<double>(low);
  const Colour &a = kScale[low], &b = kScale[low + 1];
  return {a.red + (b.red - a.red) * t, a.green + (b.green - a.green) * t, a.blue + (b.blue - a.blue) * t};
}

// The same eleven steps among a terminal's 256 colours: the nearest ones would be a blotchy scale.
constexpr std::array<int, kScale.size()> kScale256 = {88, 124, 167, 216, 224, 231, 189, 153, 74, 25, 17};
constexpr int kNoNumber256 = 244;

// The text on the value's colour, itself black or white, or pale where it says little.
std::string On(const HeatMap& map, double value, Palette palette, std::string_view text, bool pale = false) {
  const Colour colour = ColourOf(map, value);
  const bool light = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue > 140;
  const int ink = !light ? 231 : pale ? 248 : 16;
  if (palette == Palette::k24Bit)
    return fmt::format("\x1b[48;2;{:.0f};{:.0f};{:.0f};38;5;{}m{}", colour.red, colour.green, colour.blue, ink, text);
  const double share = Share(map, value);
  const int step = std::isnan(share) ? kNoNumber256 : kScale256[static_cast<size_t>(std::lround(share))];
  return fmt::format("\x1b[48;5;{};38;5;{}m{}", step, ink, text);
}
constexpr std::string_view kReset = "\x1b[0m";

std::string Rounded(double value, int digits) {
  const std::string text = fmt::format("{:.{}f}", value, digits);
  return text.find_first_of("123456789nai") == std::string::npos && text.starts_with("-") ? text.substr(1) : text;  // no "-0.00"
}

std::string Short(double value) {
  const double size = std::abs(value);
  return Rounded(value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

// At most `width` terminal columns, what is cut off shown by "…".
std::string Clip(const std::string& text, size_t width) {
  if (DisplayWidth(text) <= width) return text;
  std::string kept;
  for (size_t at = 0; at < text.size();) {
    size_t next = at + 1;
    while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xC0) == 0x80) ++next;
    if (DisplayWidth(kept) + DisplayWidth(text.substr(at, next - at)) + 1 > width) break;
    kept += text.substr(at, next - at);
    at = next;
  }
  return kept + "…";
}

// The columns' labels above their cells. Labels that are wider than a cell go down in steps like a staircase, so that each has room to its
// right.
std::string ColumnLabels(const HeatMap& map, size_t first, size_t last, size_t cell, size_t margin) {
  size_t widest = 0;
  for (size_t c = first; c < last; ++c) widest = std::max(widest, DisplayWidth(map.columns[c]));
  const size_t lines = std::clamp<size_t>((std::min(widest, kMaxLabel) + cell) / cell, 1, kMaxLabelLines);
  std::string text;
  for (size_t line = 0; line < lines; ++line) {
    std::string row(margin, ' ');
    for (size_t c = first + line; c < last; c += lines) {
      const size_t at = margin + (c - first) * cell, width = DisplayWidth(row);
      row += std::string(at - std::min(at, width), ' ') + Clip(map.columns[c], lines * cell - 1);
    }
    text += row + "\n";
  }
  return text;
}

std::string Piece(const HeatMap& map, size_t first, size_t last, size_t cell, size_t margin, Palette palette) {
  std::string text = ColumnLabels(map, first, last, cell, margin);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const std::string label = Clip(map.rows[r], kMaxLabel);
    text += std::string(margin - 1 - DisplayWidth(label), ' ') + label + " ";
    for (size_t c = first; c < last; ++c) {
      const double value = map.values[r * map.columns.size() + c];
      if (!map.texts.empty()) {
        const std::string shown = Clip(map.texts[r * map.columns.size() + c], cell - 1);
        text += On(map, value, palette, " " + shown + std::string(cell - 1 - std::min(cell - 1, DisplayWidth(shown)), ' '));
        continue;
      }
      const std::string number = cell >= kNumberCell ? Short(value) : "";
      const bool fits = number.size() <= cell;
      const bool zero = !std::isnan(value) && number.find_first_of("123456789") == std::string::npos;
      text += On(map, value, palette, fmt::format("{:>{}}", fits ? number : "", cell - (cell > kNumberCell && fits ? 1 : 0)), zero);
      if (cell > kNumberCell && fits) text += " ";
    }
    text += std::string(kReset) + "\n";
  }
  return text;
}

}  // namespace

Palette PaletteOf(FILE* stream) {
  if (!WantsColour(stream)) return Palette::kNone;
  auto value = [](const char* name) { return std::string_view(std::getenv(name) == nullptr ? "" : std::getenv(name)); };
  const std::string_view term = value("TERM"), colours = value("COLORTERM");
  if (term.empty() || term == "dumb") return Palette::kNone;
  if (colours == "truecolor" || colours == "24bit" || term.ends_with("-direct")) return Palette::k24Bit;
  return Palette::k256;
}

size_t WidthOf(FILE* stream) {
  winsize size{};
  return ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string Draw(const HeatMap& map, Palette palette, size_t width) {
  size_t margin = DisplayWidth(map.row_title);
  for (const std::string& row : map.rows) margin = std::max(margin, std::min(DisplayWidth(row), kMaxLabel));
  margin += 2;
  size_t least = 2, most = kMaxCell;
  if (!map.texts.empty()) {  // as wide as the widest text, whatever the terminal's width: a token cut to two letters says nothing
    most = kNumberCell;
    for (const std::string& shown : map.texts) most = std::max(most, DisplayWidth(shown) + 2);
    least = most = std::min(most, kMaxTextCell);
  }
  const size_t room = std::max(width, margin + most) - margin;
  const size_t cell = std::clamp<size_t>(room / map.columns.size(), least, most);
  const size_t fit = std::max<size_t>(1, room / cell);  // columns in a piece
  std::string text;
  for (size_t first = 0; first < map.columns.size(); first += fit) {
    if (first > 0) text += "\n";
    text += Dim(fmt::format("{:>{}} {}", map.row_title, margin - 1, map.column_title), true) + "\n";
    text += Piece(map, first, std::min(first + fit, map.columns.size()), cell, margin, palette);
  }
  return text;
}

void TurnRows(HeatMap& map) {
  const size_t columns = map.columns.size();
  const auto turn = [&](auto& cells) {
    std::decay_t<decltype(cells)> turned;
    for (size_t r = cells.empty() ? 0 : map.rows.size(); r-- > 0;) {
      const auto begin = cells.begin() + static_cast<std::ptrdiff_t>(r * columns);
      turned.insert(turned.end(), begin, begin + static_cast<std::ptrdiff_t>(columns));
    }
    cells = std::move(turned);
  };
  std::reverse(map.rows.begin(), map.rows.end());
  turn(map.values);
  turn(map.texts);
}

std::string DrawPlain(const HeatMap& map) {
  std::vector<Table::Column> columns = {{map.row_title, Align::kRight}};
  for (const std::string& column : map.columns) columns.push_back({Clip(column, kMaxLabel), Align::kRight});
  Table table(std::move(columns));
  for (size_t r = 0; r < map.rows.size(); ++r) {
    std::vector<std::string> cells = {Clip(map.rows[r], kMaxLabel)};
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const size_t at = r * map.columns.size() + c;
      cells.push_back(map.texts.empty() ? Rounded(map.values[at], 3) : map.texts[at] + " " + Rounded(map.values[at], 2));
    }
    table.Add(std::move(cells));
  }
  return table.ToString(false);
}

std::string Legend(const HeatMap& map, Palette palette) {
  constexpr int kBlocks = 24;
  std::string text = Short(map.centre - map.reach) + " ";
  for (int i = 0; i < kBlocks; ++i) text += On(map, map.centre + map.reach * (2.0 * i / (kBlocks - 1) - 1), palette, " ");
  return text + std::string(kReset) + " " + Short(map.centre + map.reach);
}

std::string PositionLabel(const std::string& label) {
  const size_t colon = label.find(':');
  if (colon == std::string::npos) return label;
  return label.substr(0, colon) + " " + ShownToken(label.substr(colon + 1));
}

}  // namespace fluoroscope::cli
