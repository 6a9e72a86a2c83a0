// What the bytes of a tensor are: their hash, and whether they are numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/tensor.h"
#include "base/sha256.h"

namespace fluoroscope::store {

struct Content {
  std::string sha256;  // over dtype, shape and bytes: equal tensors have equal ones, wherever they came from
  // The first element (in row-major order) that is NaN or +inf, and the first that is -inf. A bool that is neither 0 nor 1 counts as the
  // former.
  std::optional<int64_t> bad, minus_infinity;
};

// Reads a tensor's bytes piece by piece, in order; a number may lie in two pieces. One thread at a time.
class ContentScan {
 public:
  ContentScan(api::DType dtype, const std::vector<int64_t>& shape);

  // `so_far`: all bytes of the tensor that are there, those of earlier calls too.
  void Update(std::span<const std::byte> so_far);

  // Once, after the last Update.
  Content Finish();

 private:
  const api::DType dtype_;
  Sha256 hash_;
  size_t hashed_ = 0;   // bytes
  size_t scanned_ = 0;  // elements
  Content content_;
};

Content ContentOf(const api::Chunk& tensor);

}  // namespace fluoroscope::store
