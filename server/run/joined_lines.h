// A result that is made some lines at a time.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace fluoroscope::run {

// Owns what is there of it. The memory for all of it is taken with the first lines, so that nothing is held twice at the end.
class JoinedLines {
 public:
  // Lines [first, first + piece.size(0)) of `lines`; pieces come in order.
  void Put(int64_t first, int64_t lines, at::Tensor piece) {
    if (piece.size(0) == lines) {
      whole_ = std::move(piece);
      return;
    }
    if (first == 0) {
      std::vector<int64_t> shape = piece.sizes().vec();
      shape.front() = lines;
      whole_ = at::empty(shape, piece.options());
    }
    whole_.narrow(0, first, piece.size(0)).copy_(piece);
  }
  // All of it, after the last piece. Empty then.
  at::Tensor Take() { return std::exchange(whole_, {}); }
  void Forget() { whole_.reset(); }

 private:
  at::Tensor whole_;
};

}  // namespace fluoroscope::run
