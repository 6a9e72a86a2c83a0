// Attribution, as data: the domain types behind proto/fluoroscope/v1/attribution.proto, which documents the meaning of every field.
#pragma once

#include <cstdint>

#include "api/path.h"
#include "api/sweep.h"

namespace fluoroscope::api {

enum class AttributionMethod { kAttributionPatching, kGradientTimesInput, kIntegratedGradients, kQkFix, kAtpStar, kIntegratedActivations };

struct AttributionRequest {
  SweepRequest grid;
  AttributionMethod method = AttributionMethod::kAttributionPatching;
  uint32_t steps = 8;  // of the integrated ones
  CellChoice verify;   // which cells are also run: none when both are 0
};

enum class EdgeMethod { kEap, kEapIg, kEapIgActivations };

struct EdgesRequest {
  PathRequest paths;
  EdgeMethod method = EdgeMethod::kEap;
  uint32_t steps = 8;  // of the integrated ones
  CellChoice verify;   // as in AttributionRequest
};

}  // namespace fluoroscope::api
