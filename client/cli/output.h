// Output for people: aligned tables, quoted tokens, colours only on a terminal.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace fluoroscope::cli {

enum class Align { kLeft, kRight };

// Columns as wide as their widest cell (in terminal columns, so that é and 中 line up); two spaces between.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // `bold` makes the titles bold.
  std::string ToString(bool bold) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Whether escape sequences make sense there: a terminal, and NO_COLOR is not set.
bool WantsColour(FILE* stream);
// The text in bold, or dim, if `colour`.
std::string Bold(std::string_view text, bool colour);
std::string Dim(std::string_view text, bool colour);

// Terminal columns that the text takes.
size_t DisplayWidth(std::string_view utf8);

// The token in quotes, its white space and control characters visible: " Paris", "\n".
std::string Quoted(const std::string& token);

// The token as a label: without its leading space, control characters visible, in quotes only where nothing but spaces would be left.
std::string ShownToken(std::string token);

// The text as a field of a CSV line, in quotes where it needs them.
std::string CsvField(const std::string& text);

// Whether the text is UTF-8: nothing else can be sent.
bool IsUtf8(const std::string& text);

// "[14, 576]", with "…" for axes that depend on the prompt (-1); with axes' names "[pos, d_model=576]".
std::string Shape(const std::vector<std::string>& axes, const std::vector<int64_t>& shape);

// "1 cell", "420 cells".
std::string Counted(uint64_t count, std::string_view what);

// "134.5M", "515.2 MiB".
std::string Count(uint64_t count);
std::string Bytes(uint64_t bytes);

// One JSON document and a newline on stdout.
void PrintJson(const nlohmann::ordered_json& value);

}  // namespace fluoroscope::cli
