// Which build this is; echoed in every reply's provenance and in fluoroscope_build_info.
#pragma once

#include <string_view>

namespace fluoroscope::obs {

std::string_view Version();   // "0.1.0"
std::string_view Compiler();  // "gcc 12.2.0"

}  // namespace fluoroscope::obs
