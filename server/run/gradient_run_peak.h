// What a GradientRun holds, from numbers alone.
#pragma once

#include <cstdint>
#include <set>

#include "model/model.h"
#include "model/sites.h"

namespace fluoroscope::run {

// Which run: as GradientRun is asked for.
struct GradientShape {
  int64_t tokens = 0;  // that it runs itself
  int64_t keys = 0;    // that its tokens see: the trunk's in front of its own, too
  int64_t blocks = 0;  // that it runs
  std::set<model::Site> sites;
  bool with_gradients = false, keeps_keys = false;
};

// Bytes, close to what the counting allocator sees (tests/server/engine/grid_estimate_test.cc).
struct GradientMemory {
  int64_t kept = 0;       // when the pass is complete: values, keys, and the graph where there is one
  int64_t values = 0;     // of it, what stays when the graph is gone
  int64_t gradients = 0;  // of a complete backward pass
  int64_t repeated = 0;   // of one that is repeated in part, beside them
  int64_t forward = 0;    // beside what is kept, on the way through one block
  int64_t backward = 0;
};

GradientMemory MemoryOf(const model::Model& model, const GradientShape& shape);

// Bytes of a site's value over a whole prompt.
int64_t SiteBytes(const model::Model& model, model::Site site, int64_t tokens);

}  // namespace fluoroscope::run
