// LayerNorm and RMSNorm, written out so that their scale and their normalised value are sites.
#pragma once

#include <ATen/ATen.h>

#include "model/hooks.h"
#include "model/model.h"

namespace fluoroscope::model {

// x [tokens, d_model] -> norm(x) * w + b. `scale` and `normalized` are the two sites on the way.
at::Tensor ApplyNorm(const Model& model, const NormWeights& weights, const at::Tensor& x, Site scale, Site normalized, int64_t layer,
                     const PackedRows& rows, SiteHooks& hooks);

// Back through a norm without its weight: from a gradient in (x - mean) / scale to the one in x. `normalized` is that value, `scale` the
// site's; scale^2 = mean((x - mean)^2) + eps, so eps needs no care. `gradient` may have more axes in front.
at::Tensor NormGradient(const at::Tensor& gradient, const at::Tensor& normalized, const at::Tensor& scale, bool centred);

}  // namespace fluoroscope::model
