// Attribution, as data: the domain types behind proto/fluoroscope/v1/attribution.proto, which documents the meaning of every field.
#pragma once

#include <cstdint>

#include "api/sweep.h"

namespace fluoroscope::api {

enum class AttributionMethod { kAttributionPatching, kGradientTimesInput, kIntegratedGradients };

struct AttributionRequest {
  SweepRequest grid;
  AttributionMethod method = AttributionMethod::kAttributionPatching;
  uint32_t steps = 8;  // of kIntegratedGradients
};

}  // namespace fluoroscope::api
