// How much of a run's results can lie unsent at once, from its plan's numbers alone: a part of peak.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "run/plan.h"

namespace fluoroscope::run {

// Bytes of what a batch sends, captures that are kept as handles apart. A run asks its sink between two pieces of work (an attention part,
// an MLP, a step of logits, one lens), so a piece's results can come on top of a full buffer.
struct BatchResults {
  int64_t captures = 0, logits = 0;              // what the layers and lenses make, and what comes after them
  int64_t captures_piece = 0, logits_piece = 0;  // of them, the most that one piece makes
  // The most that several rows' results have in one piece of memory: it is held until the last of them is sent.
  int64_t shared = 0;
  int64_t all() const { return captures + logits; }
};

BatchResults ResultsOf(const RunPlan& plan, const std::vector<size_t>& batch);

// Whether a batch may share a pool's batch, where its results wait for the batch's end whatever the sink says: when nothing had to wait for
// the reader even if nobody read, or when they are few beside the sink's buffer. `before`: bytes of the results of the batches in front.
bool MayHold(const RunPlan& plan, const BatchResults& results, int64_t before);

// Whether it will, if there is a pool.
bool Pools(const RunPlan& plan, const std::vector<size_t>& batch, const BatchResults& results, int64_t before);

// The most that is unsent when `all` bytes of results have arisen, the last `at_once` of them without a look at the sink.
int64_t UnsentBytes(const RunPlan& plan, int64_t all, int64_t at_once);

}  // namespace fluoroscope::run
