#include <c10/core/InferenceMode.h>

#include "intervention/kinds.h"
#include "intervention/subspace.h"
#include "model/packed_rows.h"

namespace fluoroscope::intervention {
namespace {

const at::Tensor& BasisOf(const SwapSubspace& swap) {
  if (swap.part == nullptr) return swap.basis;
  const ReadPart& part = *swap.part;
  if (!part.basis.defined()) {
    const c10::InferenceMode inference(false);  // a pass with gradients may save it
    const at::Tensor reader =
        part.units.empty() ? part.reader : part.reader.index_select(1, model::IndexTensor(part.units, part.reader.device()));
    part.basis = part.null_space ? NullSpacePart(swap.basis, reader) : RowSpacePart(swap.basis, reader);
  }
  return part.basis;
}

}  // namespace

at::Tensor Changed(const SwapSubspace& swap, const KindContext& context, const at::Tensor& own) {
  const at::Tensor& basis = BasisOf(swap);
  return own + at::matmul(at::matmul(context.Source(swap.source) - own, basis.t()), basis);
}

}  // namespace fluoroscope::intervention
