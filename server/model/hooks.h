// How the forward pass lets somebody look at a site or change it. The model knows nothing about captures and interventions.
#pragma once

#include <ATen/ATen.h>

#include "model/packed_rows.h"
#include "model/sites.h"

namespace fluoroscope::model {

// Implemented by run/. Called on the executor's thread, in the order of the forward pass.
class SiteHooks {
 public:
  virtual ~SiteHooks() = default;

  // Whether anybody wants this site in this layer (0 for sites outside the blocks). A site nobody wants costs nothing.
  virtual bool Wants(Site site, int64_t layer) const = 0;
  // The same for one row: sites that are only computed for rows that ask (scores, pattern, result).
  virtual bool Wants(Site site, int64_t layer, int64_t slot) const = 0;

  // A site of all rows: `value` has one line per token of `rows`. Returns what the forward pass goes on with: `value` itself, or an
  // edited copy; never the same memory changed.
  virtual at::Tensor At(Site site, int64_t layer, const PackedRows& rows, at::Tensor value) = 0;

  // A site of one row: [head, query, key] for scores and pattern, [pos, head, d_model] for result.
  virtual at::Tensor AtRow(Site site, int64_t layer, const RowSpan& row, at::Tensor value) = 0;
};

// At, only if somebody wants it.
inline at::Tensor Visit(SiteHooks& hooks, Site site, int64_t layer, const PackedRows& rows, at::Tensor value) {
  return hooks.Wants(site, layer) ? hooks.At(site, layer, rows, std::move(value)) : value;
}

}  // namespace fluoroscope::model
