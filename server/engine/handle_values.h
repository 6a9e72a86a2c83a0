// Handles as sources of interventions: looked up, checked against the place that reads them, and made tensors of.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "engine/loaded_model.h"
#include "run/plan.h"
#include "store/handle_store.h"

namespace fluoroscope::engine {

using StoredHandle = std::shared_ptr<const store::Stored>;

// The handles that one request reads. Each is looked up once, so that the plan does not change when one expires while it is made.
class RequestHandles {
 public:
  RequestHandles() = default;  // for requests that cannot read any
  RequestHandles(store::HandleStore* store, std::string principal) : store_(store), principal_(std::move(principal)) {}

  absl::StatusOr<StoredHandle> Find(const std::string& id, const std::string& field);

 private:
  store::HandleStore* store_ = nullptr;
  std::string principal_;
  std::map<std::string, StoredHandle> found_;
};

// A site's part as a handle holds it.
struct HandlePart {
  run::Place place;    // positions are lines of the handle's tensor; heads and units are indices into it, empty: all it has
  bool whole = false;  // all of it
};

// Where a handle has these positions (absolute), heads and units (the model's; empty: all of the model's). INVALID_ARGUMENT when it does
// not have them all.
absl::StatusOr<HandlePart> PartOf(const store::Stored& handle, const LoadedModel& model, model::Site site, int64_t layer,
                                  const std::vector<int64_t>& positions, const std::vector<int64_t>& heads,
                                  const std::vector<int64_t>& units, const std::string& field);

// Positions in the sequence that the handle's values came from, ascending; absent: all the handle has.
absl::StatusOr<std::vector<int64_t>> HandlePositions(const store::Stored& handle, const LoadedModel& model,
                                                     const std::optional<api::Positions>& positions, const std::string& field);

// INVALID_ARGUMENT unless positions that are matched one by one are written in ascending order.
absl::Status CheckAscendingIn(const store::Stored& handle, const LoadedModel& model, const api::Positions& positions,
                              const std::string& field);

// INVALID_ARGUMENT unless the handle is of this model's weights.
absl::Status CheckHandleWeights(const store::Stored& handle, const LoadedModel& model, const std::string& field);

// INVALID_ARGUMENT unless the handle is of this model's weights, and of this place in the dtype it has there; and numbers.
absl::Status CheckHandle(const store::Stored& handle, const LoadedModel& model, model::Site site, int64_t layer, bool minus_infinity,
                         const std::string& field);

// The handle's values where they lie; the tensor keeps them alive. Nobody may write to it.
at::Tensor ViewOf(const StoredHandle& handle);

// A part of the handle in float32, times `scale`. Where it lies when that is possible, else a copy, whose bytes are added to `copied`. Uses
// no other threads.
at::Tensor FloatsOf(const StoredHandle& handle, const HandlePart& part, double scale, uint64_t& copied);

// The element type of a site's values in this model.
api::DType DTypeAt(const LoadedModel& model, model::Site site);

}  // namespace fluoroscope::engine
