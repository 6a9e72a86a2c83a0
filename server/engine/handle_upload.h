// A tensor that a client sends, to become a handle.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "api/handles.h"
#include "engine/loaded_model.h"
#include "store/handle_store.h"

namespace fluoroscope::engine {

// Checks the header against the model, takes the bytes out of the store's limits, and only then memory. The upload's bytes are checked and
// hashed as they come, on the caller's thread. `store` outlives the upload. Errors as proto/fluoroscope/v1/handles.proto says.
absl::StatusOr<std::unique_ptr<api::Upload>> BeginUpload(const api::PutHeader& header, const LoadedModel& model,
                                                         const std::string& principal, store::HandleStore& store);

}  // namespace fluoroscope::engine
