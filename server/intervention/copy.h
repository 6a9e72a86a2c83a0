// The one kind that moves numbers without touching them, masked scores too.
#pragma once

#include "intervention/edit.h"

namespace fluoroscope::intervention {

void CopyRegion(const Copy& copy, const EditContext& context, const Region& region, at::Tensor& value);

}  // namespace fluoroscope::intervention
