#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const Add& add, const KindContext& context, const at::Tensor& own) { return own + context.Alive(add.value); }

}  // namespace fluoroscope::intervention
