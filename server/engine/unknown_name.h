// What to say about a hook name that does not exist.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/loaded_model.h"

namespace fluoroscope::engine {

// NOT_FOUND: says what is wrong with an exact name, as far as it can be told, and which names are nearest (three at most); else which there
// are. `field` is where the name stands.
absl::Status UnknownName(const LoadedModel& model, const std::string& name, const std::string& field);

}  // namespace fluoroscope::engine
