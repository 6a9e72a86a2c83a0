#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const Set& set, const KindContext& context, const at::Tensor&) { return context.Alive(set.value); }

}  // namespace fluoroscope::intervention
