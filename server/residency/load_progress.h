// How far the loading of a model is, and whether it is still wanted.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/cancel.h"

namespace fluoroscope::residency {

// Written by the thread that loads, read by any.
struct LoadProgress {
  std::atomic<uint64_t> done_bytes{0};
  std::atomic<uint64_t> total_bytes{0};  // 0: not known yet
  CancelToken cancel;
};

}  // namespace fluoroscope::residency
