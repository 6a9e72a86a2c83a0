// One block of memory for all weights of a model.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace fluoroscope::model {

// Hands out tensors that lie one after the other in one block, which lives as long as any of them. Reading weights is what a token costs,
// and that is as fast as memory only through huge pages: a matrix of its own ends in small ones, and those below 2 MiB have no others
// (28 % of SmolLM2's layers). Together they have none but the last: the server's pass of one token took 18.8 instead of 19.3 ms. Used by
// one thread, while a model loads.
class WeightArena {
 public:
  // Without memory: its tensors are shapes (meta tensors), whose bytes are counted.
  WeightArena() = default;
  // With as many bytes as such a one counted for the same tensors.
  WeightArena(int64_t bytes, at::Device device);

  // The next tensor, its values undefined. It begins at a cache line.
  at::Tensor Take(at::IntArrayRef shape, at::ScalarType dtype);

  bool has_memory() const { return block_.defined(); }
  int64_t taken_bytes() const { return taken_; }

 private:
  at::Tensor block_;  // bytes; undefined without memory
  int64_t taken_ = 0;
};

}  // namespace fluoroscope::model
