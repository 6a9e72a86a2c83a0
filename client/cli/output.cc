#include "client/cli/output.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace fluoroscope::cli {
namespace {

// The scripts whose characters take two columns, roughly as Unicode's East Asian Width has them; and the marks that take none.
bool IsWide(uint32_t c) {
  return (c >= 0x1100 && c <= 0x115F) || (c >= 0x2E80 && c <= 0xA4CF && c != 0x303F) || (c >= 0xAC00 && c <= 0xD7A3) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0xFE30 && c <= 0xFE6F) || (c >= 0xFF00 && c <= 0xFF60) || (c >= 0xFFE0 && c <= 0xFFE6) ||
         (c >= 0x1F300 && c <= 0x1F64F) || (c >= 0x1F680 && c <= 0x1F9FF) || (c >= 0x20000 && c <= 0x3FFFD);
}
bool IsMark(uint32_t c) { return (c >= 0x300 && c <= 0x36F) || (c >= 0x200B && c <= 0x200F) || (c >= 0xFE00 && c <= 0xFE0F); }

void Pad(std::string& line, const std::string& cell, size_t width, Align align) {
  const std::string space(width - std::min(width, DisplayWidth(cell)), ' ');
  line += align == Align::kRight ? space + cell : cell + space;
}

std::string Scaled(double value, double step, std::initializer_list<const char*> units) {
  auto unit = units.begin();
  while (value >= step && unit + 1 != units.end()) {
    value /= step;
    ++unit;
  }
  return unit == units.begin() ? fmt::format("{:.0f}{}", value, *unit) : fmt::format("{:.1f}{}", value, *unit);
}

}  // namespace

size_t DisplayWidth(std::string_view utf8) {
  size_t width = 0;
  for (size_t at = 0; at < utf8.size();) {
    const auto first = static_cast<unsigned char>(utf8[at++]);
    uint32_t point = first < 0x80 ? first : first < 0xE0 ? first & 0x1F : first < 0xF0 ? first & 0x0F : first & 0x07;
    for (; at < utf8.size() && (static_cast<unsigned char>(utf8[at]) & 0xC0) == 0x80; ++at) point = point << 6 | (utf8[at] & 0x3F);
    width += IsMark(point) ? 0 : IsWide(point) ? 2 : 1;
  }
  return width;
}

std::string Table::ToString(bool bold) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(DisplayWidth(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string text;
  auto add = [&](const std::vector<std::string>& cells, bool bold_line) {
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) line += "  ";
      Pad(line, cells[i], widths[i], columns_[i].align);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += Bold(line, bold_line) + "\n";
  };
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  add(titles, bold);
  for (const auto& row : rows_) add(row, false);
  return text;
}

bool WantsColour(FILE* stream) {
  const char* no = std::getenv("NO_COLOR");
  return isatty(fileno(stream)) != 0 && (no == nullptr || *no == '\0');
}

std::string Bold(std::string_view text, bool colour) { return colour ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text); }
std::string Dim(std::string_view text, bool colour) { return colour ? fmt::format("\x1b[2m{}\x1b[0m", text) : std::string(text); }

std::string Quoted(const std::string& token) {
  return nlohmann::json(token).dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

std::string ShownToken(std::string token) {
  if (token.starts_with(" ") && token.size() > 1) token.erase(0, 1);
  std::string quoted = Quoted(token);
  // A no-break space would look like nothing.
  for (size_t at; (at = quoted.find("\u00a0")) != std::string::npos;) quoted.replace(at, 2, "\\u00a0");
  const bool blank = token.find_first_not_of(' ') == std::string::npos;
  return blank ? quoted : quoted.substr(1, quoted.size() - 2);
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

bool IsUtf8(const std::string& text) {
  return nlohmann::json::parse(Quoted(text)).get_ref<const std::string&>() == text;  // Quoted replaces what is not
}

std::string Shape(const std::vector<std::string>& axes, const std::vector<int64_t>& shape) {
  std::string text;
  for (size_t i = 0; i < shape.size(); ++i) {
    const std::string size = shape[i] < 0 ? "" : fmt::format("{}", shape[i]);
    const std::string axis = i < axes.size() ? axes[i] : "";
    text += (i > 0 ? ", " : "") + (axis.empty() ? (size.empty() ? "…" : size) : size.empty() ? axis : fmt::format("{}={}", axis, size));
  }
  return "[" + text + "]";
}

std::string Counted(uint64_t count, std::string_view what) { return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s"); }

std::string Count(uint64_t count) { return Scaled(static_cast<double>(count), 1000, {"", "K", "M", "B", "T"}); }
std::string Bytes(uint64_t bytes) { return Scaled(static_cast<double>(bytes), 1024, {" B", " KiB", " MiB", " GiB", " TiB"}); }

void PrintJson(const nlohmann::ordered_json& value) {
  fmt::print("{}\n", value.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace fluoroscope::cli
