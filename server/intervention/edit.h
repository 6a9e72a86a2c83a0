// What an intervention does to the values of one region, with everything it needs already resolved. To add a kind: its struct here, its
// file beside zero.cc with its line in kinds.h, its resolution in engine/resolve_interventions.cc. (Kinds that work on SAE features will
// stand here like the others.)
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "intervention/region.h"

namespace fluoroscope::intervention {

// Another row's value of the same region, which ran in an earlier wave: an index into the run's kept values.
using Kept = size_t;

// Replaces the region by another row's.
struct Copy {
  Kept source = 0;
  // Where many edits draw on one kept value: which of its lines (along the position axis), heads and units this one takes, one for each
  // of its own. Empty: the kept value as it is.
  std::vector<int64_t> lines = {}, heads = {}, units = {};
};

struct Zero {};

// The mean over positions of all sources, one value per head and unit.
struct Mean {
  struct Reference {
    std::vector<Kept> sources;  // at least one
    mutable at::Tensor value;   // computed when the first edit needs it, on the executor's thread
  };
  std::shared_ptr<const Reference> reference;  // shared by the edits of all target rows
  // Where edits of different heads and units share a mean: which of it this one takes. Empty: all.
  std::vector<int64_t> heads = {}, units = {};
};

// Tensors are f32 on the model's device and broadcast to the region.
struct Set {
  at::Tensor value;
};

struct Add {
  at::Tensor value;
};

struct Scale {
  double factor = 1;
};

// (1 - weight) * own + weight * source.
struct Interpolate {
  Kept source = 0;
  double weight = 0;
};

// Removes the component in a subspace.
struct ProjectOut {
  at::Tensor basis;  // f32 [rank, units], orthonormal
};

// The part of a subspace that the matrix behind a place reads, or the part that it does not.
struct ReadPart {
  at::Tensor reader;           // [outputs, the site's units], the model's own weights
  std::vector<int64_t> units;  // columns of `reader` that belong to the place; empty: all
  bool null_space = false;     // what the matrix does not read
  mutable at::Tensor basis;    // computed when the first edit needs it, on the executor's thread
};

// Replaces the component in a subspace by the source's.
struct SwapSubspace {
  Kept source = 0;
  at::Tensor basis;                                // f32 [rank, units], orthonormal
  std::shared_ptr<const ReadPart> part = nullptr;  // shared by the edits of all target rows; null: the whole subspace
};

// Adds stddev * a standard normal number that depends only on `seed` and the place: see noise.h.
struct Noise {
  double stddev = 0;
  uint64_t seed = 0;
  uint32_t row = 0;                // of the request
  uint32_t place = 0;              // the site, and the layer from bit 8 on
  std::vector<int64_t> positions;  // absolute, those the edit was made for
};

using Edit = std::variant<Copy, Zero, Mean, Set, Add, Scale, Interpolate, ProjectOut, SwapSubspace, Noise>;

// What edits may draw on besides the value they change.
struct EditContext {
  const std::vector<at::Tensor>& kept;  // values of earlier waves
  // Of the positions the edit was made for, those that `region` still has, by their index; the others have left the batch.
  const std::vector<int64_t>& alive;
};

// Changes the region's entries of `value`, which belongs to the caller and nobody else reads yet.
void Apply(const Edit& edit, const EditContext& context, const Region& region, at::Tensor& value);

}  // namespace fluoroscope::intervention
