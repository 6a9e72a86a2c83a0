// Sizes of what a plan reads and sends, from its numbers alone.
#pragma once

#include <cstdint>

#include "model/model.h"
#include "run/plan.h"

namespace fluoroscope::run {

// Elements of one row's tensor at a place. A key axis has one entry per token of the row.
int64_t Elements(const Place& place, const RowPlan& row, const model::Architecture& arch);

// Elements of a site for one token of a row, all heads and units.
int64_t ElementsPerToken(model::Site site, const RowPlan& row, const model::Architecture& arch);

// Whether a site's values are float32 whatever the model's dtype: those of norms.
bool InFloat32(model::Site site);

// Bytes of an element there. `models`: the size of the model's dtype.
int64_t ElementSize(const Place& place, int64_t models);

// What is sent of a capture, and of a row's logits.
int64_t CaptureBytes(const CapturePlan& capture, const RowPlan& row, const model::Architecture& arch, int64_t element_size);
int64_t LogitsBytes(const RowPlan& row, const model::Architecture& arch, int64_t element_size);

}  // namespace fluoroscope::run
