// How far a long call is.
#pragma once

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>

namespace fluoroscope::cli {

// One line on stderr that is written over again and again, on a terminal and for grids that take a while.
class Progress {
 public:
  void Show(size_t done, size_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (!is_terminal_ || now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    shown_ = true;
    fmt::print(stderr, "\r{} of {} cells ({:.0f} %)\x1b[K", done, total, 100.0 * static_cast<double>(done) / static_cast<double>(total));
  }
  ~Progress() {
    if (shown_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  const bool is_terminal_ = isatty(fileno(stderr)) != 0;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
};

}  // namespace fluoroscope::cli
