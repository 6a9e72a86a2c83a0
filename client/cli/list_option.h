// Options whose value is a list of numbers.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace fluoroscope::cli {

// Adds an option with a list of numbers (see notation.h) as its value. Left out, `to` stays empty and stands for all; an empty list is
// wrong usage, for it would silently mean the same. `to` outlives the parsing.
void AddListOption(CLI::App& command, const char* name, std::string* to, const char* help);

}  // namespace fluoroscope::cli
