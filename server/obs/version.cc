#include "obs/version.h"

namespace fluoroscope::obs {

std::string_view Version() { return FLUOROSCOPE_VERSION; }

std::string_view Compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

}  // namespace fluoroscope::obs
