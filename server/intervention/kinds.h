// The kinds of edit, one file each. `own` is what the region holds, in float32, without masked entries (they are 0 here and stay masked);
// the result is what it will hold, float32, of the same shape or one that broadcasts to it.
#pragma once

#include "intervention/edit.h"

namespace fluoroscope::intervention {

struct KindContext {
  const EditContext& edit;
  const Region& region;
  const at::Tensor& whole;  // the site's whole tensor, of all rows or of this one

  // Another row's value of the region, as it was kept: for the positions that are still there.
  at::Tensor Source(Kept kept) const;
  // The part of a tensor made for all of the edit's positions that belongs to those still there. It may broadcast along them.
  at::Tensor Alive(const at::Tensor& made) const;
};

at::Tensor Changed(const Zero& zero, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Mean& mean, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Set& set, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Add& add, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Scale& scale, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Interpolate& interpolate, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const ProjectOut& project_out, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const SwapSubspace& swap, const KindContext& context, const at::Tensor& own);
at::Tensor Changed(const Noise& noise, const KindContext& context, const at::Tensor& own);

}  // namespace fluoroscope::intervention
