// A slice of a weight, resolved.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/results.h"
#include "api/weights.h"
#include "engine/loaded_model.h"
#include "sched/work.h"

namespace fluoroscope::engine {

std::vector<api::WeightInfo> ListWeightsOf(const LoadedModel& model);

struct WeightSlice {
  std::string name;
  at::Tensor view;  // of the model's memory; ranges are taken already
  // Indices along axes of `view`, still to be gathered on the executor's thread.
  std::vector<std::pair<int64_t, std::vector<int64_t>>> gather;
  int64_t lines = 0;            // entries of the result's outermost axis
  int64_t lines_at_a_time = 0;  // so many are copied in one piece; 0: nothing is, the view is sent as it lies
  uint64_t peak_bytes = 0;      // most that is held at once
  std::string hash;             // of name and slices, for provenance
};

// NOT_FOUND with the names that exist; INVALID_ARGUMENT for a slice outside its axis, or empty.
absl::StatusOr<WeightSlice> ResolveWeightSlice(const LoadedModel& model, const api::ReadWeightsRequest& request);

// Counts what a slice's view and gathers make: its lines, how many are copied at a time, and its bytes. RESOURCE_EXHAUSTED when repeated
// indices make a number that is none.
absl::Status CountSlice(WeightSlice& slice);

// Copies the slice piece by piece, between which others have their turn, and sends it: the header, one tensor (`named`, with the slice's
// name and bytes filled in), a summary. To be charged with `slice.peak_bytes`. `owner` keeps alive what the slice views.
std::shared_ptr<sched::Work> ReadSlice(WeightSlice slice, std::shared_ptr<const void> owner, api::ForwardHeader header,
                                       std::shared_ptr<api::ForwardSink> sink, api::NamedTensor named = {});

}  // namespace fluoroscope::engine
