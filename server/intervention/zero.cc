#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const Zero&, const KindContext&, const at::Tensor& own) { return at::zeros_like(own); }

}  // namespace fluoroscope::intervention
