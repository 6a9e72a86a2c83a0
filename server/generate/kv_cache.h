// The keys and values of a continuation, kept from step to step.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "model/kv_prefix.h"

namespace fluoroscope::generate {

// A cache begins with room for so many positions more than its prompt has.
inline constexpr int64_t kFirstBlock = 64;

// Owns one tensor of keys and one of values per layer, with room for more positions than are there, so that a step writes its own line and
// moves nothing else. Used on the executor's thread.
class KvCache {
 public:
  // Begins with these, one tensor a layer, [positions, kv_heads, d_head] each, which are copied; in front of them, where `front` is not
  // null, the first `front_size` positions of that. Grows to at most `most` positions.
  KvCache(const std::vector<at::Tensor>& k, const std::vector<at::Tensor>& v, int64_t most, const model::KvPrefix* front = nullptr,
          int64_t front_size = 0);

  // Makes room for so many positions. When there is none, it doubles: over a continuation's life each line is moved about once.
  void Reserve(int64_t positions);

  // Writes line `line` of k or v (of one layer, [lines, kv_heads, d_head]) to a position for which there is room.
  void PutK(int64_t layer, int64_t position, const at::Tensor& k, int64_t line) { Put(prefix_.k, layer, position, k, line); }
  void PutV(int64_t layer, int64_t position, const at::Tensor& v, int64_t line) { Put(prefix_.v, layer, position, v, line); }

  // Its tensors have more lines than positions are known; whoever reads says how many.
  const model::KvPrefix& prefix() const { return prefix_; }

 private:
  static void Put(std::vector<at::Tensor>& to, int64_t layer, int64_t position, const at::Tensor& from, int64_t line);
  void Grow(int64_t capacity);

  const int64_t most_;
  int64_t known_ = 0;  // positions that a growing cache must move
  int64_t capacity_ = 0;
  model::KvPrefix prefix_;
};

}  // namespace fluoroscope::generate
