#include "intervention/kinds.h"

namespace fluoroscope::intervention {

at::Tensor Changed(const ProjectOut& project_out, const KindContext&, const at::Tensor& own) {
  return own - at::matmul(at::matmul(own, project_out.basis.t()), project_out.basis);
}

}  // namespace fluoroscope::intervention
