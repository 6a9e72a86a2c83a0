// Which models there are by name, and in which state: available -> loading -> loaded -> (unloaded, perhaps still in use) available.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "residency/load_progress.h"

namespace fluoroscope::residency {

// A loaded model, as the table sees it. Reference counted: requests hold it, or parts of it, beyond the table.
class Resident {
 public:
  virtual ~Resident() = default;
  // Expires when nobody holds the weights any more, the model itself included.
  virtual std::weak_ptr<const void> memory() const = 0;
};

// Where a model comes from.
struct Source {
  std::string name, path;
  std::string dtype;      // empty: the file's
  bool in_store = false;  // and not in the configuration: it is there as long as the store has it
};

enum class State { kAvailable, kLoading, kLoaded, kUnloading };

// Owns the names, and of each loaded model one reference. Safe from any thread: one mutex guards all, and under it nothing is loaded,
// destroyed or called back. It does not load: whoever is told to by Request loads, on whatever thread, and says how it went.
class ModelTable {
 public:
  using Model = std::shared_ptr<Resident>;
  // Makes an answer of what came, and returns how to give it. It is given when the table holds the model no longer than others may: who
  // hears it may unload the model at once, and it is not in use. `at_once`: it was loaded when it was asked for.
  using Waiter = std::function<std::function<void()>(const absl::StatusOr<Model>&, bool at_once)>;

  // A model of the configuration is known by name although it is not loaded.
  void Know(Source source);

  // The source of a name that is known; NOT_FOUND.
  absl::StatusOr<Source> SourceOf(const std::string& name) const;

  // A loaded model. NOT_FOUND for one that is not, with what can be done about it and what is loaded; UNAVAILABLE while it is being loaded.
  absl::StatusOr<Model> Find(const std::string& name) const;

  enum class Answer { kLoaded, kShared, kLoad };
  // Somebody wants this model, until `gone` is cancelled. kLoaded: `waiter` has been called. kShared: somebody loads it already, `waiter`
  // is called when that ends. kLoad: the same, and the caller has to load it, reporting to `progress`, and to call Loaded or Failed for
  // that load exactly once.
  Answer Request(const Source& source, Waiter waiter, std::shared_ptr<LoadProgress>* progress, CancelToken gone = {});
  void Loaded(const std::string& name, const LoadProgress& load, Model model);
  void Failed(const std::string& name, const LoadProgress& load, absl::Status why);

  // Takes a loaded model out of the table: from now on Find does not find it. Null when it was not loaded. NOT_FOUND for a name that is not
  // known; FAILED_PRECONDITION while it is being loaded.
  absl::StatusOr<Model> Remove(const std::string& name);

  // Whether weights of this name, removed from the table, are still held by somebody.
  bool InUse(const std::string& name) const;

  // Nobody wants any load any more: cancels those under way, which end with Failed.
  void CancelLoads();

  // To be called after a `gone` was cancelled. Cancels the loads whose waiters have all gone and takes them out of the table: the model is
  // available again, whoever wants it next begins a new load, and what becomes of the old one nobody sees; its waiters are called when it
  // has ended.
  void CancelUnwanted();

  struct Line {
    std::string name;
    State state = State::kAvailable;
    bool in_store = false;
    Model model;                               // when loaded
    uint64_t done_bytes = 0, total_bytes = 0;  // when loading
  };
  // Everything that is known, by name.
  std::vector<Line> List() const;

 private:
  struct Waiting {
    Waiter waiter;
    CancelToken gone;
  };
  struct Entry {
    Source source;
    Model model;                             // loaded
    std::shared_ptr<LoadProgress> progress;  // loading
    std::vector<Waiting> waiters;            // of the load
    bool was_loaded = false;
    mutable std::vector<std::weak_ptr<const void>> leaving;  // removed, and perhaps still held
  };

  static bool Leaving(const Entry& entry);  // with mutex_ held
  std::string LoadedNames() const;          // with mutex_ held
  void End(const std::string& name, const LoadProgress& load, Model model, absl::StatusOr<Model> result);

  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;                          // guarded by mutex_
  std::map<const LoadProgress*, std::vector<Waiting>> unwanted_;  // loads that were taken out, until they have ended; guarded by mutex_
};

}  // namespace fluoroscope::residency
