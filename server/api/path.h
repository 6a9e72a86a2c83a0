// Path patching, as data: the domain types behind proto/fluoroscope/v1/path.proto, which documents the meaning of every field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/sweep.h"

namespace fluoroscope::api {

struct PathNode {
  std::string site;
  std::vector<uint32_t> heads;  // empty: all
};

struct PathEnd {
  std::string label;  // empty: made from the nodes
  std::vector<PathNode> nodes;
  std::vector<Positions> positions;  // empty: all; one for all pairs, or one per pair
};

struct PathRequest {
  std::string model;
  std::vector<SweepPair> pairs;
  SweepDirection direction = SweepDirection::kNoise;
  std::vector<PathEnd> senders, receivers;
  bool freeze_mlps = false, freeze_norms = false;
  std::vector<Metric> metrics;  // as in SweepRequest
};

}  // namespace fluoroscope::api
