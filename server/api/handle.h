// A tensor that stays on the server, as data: the domain type behind proto/fluoroscope/v1/handle.proto, which documents every field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/tensor.h"

namespace fluoroscope::api {

struct Handle {
  std::string id;
  std::string model, weights_sha256;
  std::string site;
  std::optional<uint32_t> layer;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t byte_size = 0;
  uint32_t row = 0;
  std::vector<int32_t> positions;
  std::vector<int64_t> token_ids;     // one per position, or none
  std::vector<int32_t> heads, units;  // empty: all
  uint32_t row_length = 0;
  double seconds_left = 0;  // when it was asked for
  bool uploaded = false;
  std::string plan_sha256;
  uint32_t capture = 0;
};

}  // namespace fluoroscope::api
