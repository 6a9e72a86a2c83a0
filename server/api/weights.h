// Reading weights: the domain types behind Models.ListWeights and Models.ReadWeights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace fluoroscope::api {

struct WeightInfo {
  std::string name;
  std::vector<std::string> axes;
  std::vector<int64_t> shape;
};

// Some entries of one axis: from `start` to before `end` as in Python, or those at given indices in the order given. Negative numbers count
// from the end.
struct AxisRange {
  std::optional<int64_t> start, end;
};
using AxisIndices = std::vector<int64_t>;  // at least one
using AxisSlice = std::variant<AxisRange, AxisIndices>;

struct ReadWeightsRequest {
  std::string model, name;
  std::vector<AxisSlice> slices;  // from the outermost axis on; axes without one are taken whole
};

}  // namespace fluoroscope::api
