#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const Scale& scale, const KindContext&, const at::Tensor& own) { return own * scale.factor; }

}  // namespace fluoroscope::intervention
