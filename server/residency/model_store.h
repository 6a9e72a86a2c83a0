// The directory of models that clients may ask for by name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fluoroscope::residency {

// A name is one subdirectory of the store, never a path: 1 to 64 of [A-Za-z0-9._-], not beginning with a dot. Looks at the file system each
// time, so that what is put there later is found. Immutable; any thread. Who may write into the store is its owner's business: what lies
// inside a model's directory, links included, is trusted.
class ModelStore {
 public:
  // Empty: a store without models.
  explicit ModelStore(std::string directory) : directory_(std::move(directory)) {}

  // The model's directory, all links resolved. INVALID_ARGUMENT for what cannot be a name; NOT_FOUND when there is no such directory with a
  // config.json; FAILED_PRECONDITION when it is a link out of the store.
  absl::StatusOr<std::string> Find(const std::string& name) const;

  // What Find would find, by name.
  std::vector<std::string> Names() const;

 private:
  const std::string directory_;
};

}  // namespace fluoroscope::residency
