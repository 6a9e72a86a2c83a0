#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const Interpolate& interpolate, const KindContext& context, const at::Tensor& own) {
  // at::lerp is exact at both ends: weight 0 keeps the bits, weight 1 is a copy.
  return at::lerp(own, context.Source(interpolate.source), interpolate.weight);
}

}  // namespace fluoroscope::intervention
