#include "model/norm.h"

#include "model/line_gradients.h"

namespace fluoroscope::model {

at::Tensor ApplyNorm(const Model& model, const NormWeights& weights, const at::Tensor& x, Site scale_site, Site normalized_site,
                     int64_t layer, const PackedRows& rows, SiteHooks& hooks) {
  const bool centred = model.arch.norm == Norm::kLayer;
  const bool is_read = hooks.Wants(scale_site, layer) || hooks.Wants(normalized_site, layer), recorded = IsRecorded(x);
  const bool in_lines = HasLineKernels(x) && weights.weight.scalar_type() == at::kFloat && !(is_read && recorded);
  LineStatistics statistics;
  at::Tensor wide;
  if (in_lines && recorded) return NormalizeLinesWithGradient(x, centred, model.arch.norm_eps, weights.weight, weights.bias);
  if (in_lines) {
    statistics = StatisticsOf(x, centred, model.arch.norm_eps);
    if (!is_read) return NormalizeLines(x, statistics, weights.weight, weights.bias);
    wide = x;
  } else {
    // Statistics in float32 whatever the model's dtype: the mean of squares of a large residual overflows float16.
    wide = x.to(at::kFloat);
    if (centred) statistics.mean = wide.mean(-1, /*keepdim=*/true);
  }
  const at::Tensor away = centred ? wide - statistics.mean : wide;
  if (!in_lines) statistics.scale = at::sqrt(at::square(away).mean(-1, /*keepdim=*/true).add_(model.arch.norm_eps));
  const at::Tensor scale = Visit(hooks, scale_site, layer, rows, statistics.scale);
  const at::Tensor normalized = Visit(hooks, normalized_site, layer, rows, away / scale).to(x.scalar_type());
  at::Tensor out = normalized * weights.weight;
  return weights.bias.defined() ? out.add_(weights.bias) : out;
}

at::Tensor NormGradient(const at::Tensor& gradient, const at::Tensor& normalized, const at::Tensor& scale, bool centred) {
  const at::Tensor along = (gradient * normalized).mean(-1, /*keepdim=*/true);
  const at::Tensor h = centred ? gradient - gradient.mean(-1, /*keepdim=*/true) : gradient;
  return at::addcmul(h, normalized, along, -1).div_(scale);
}

}  // namespace fluoroscope::model
