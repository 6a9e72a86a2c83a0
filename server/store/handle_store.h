// Tensors that clients have left on the server, each for a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/handle.h"
#include "api/handles.h"
#include "api/tensor.h"
#include "store/content.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::store {

class HandleStore;

// Bytes (and a number of handles) that somebody has been granted. Given back when it dies, whichever thread that is on; may outlive the
// store.
class Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept { *this = std::move(other); }
  Charge& operator=(Charge&& other) noexcept;
  ~Charge();

  // A part of it, for one handle. `bytes` is at most what is left.
  Charge Split(uint64_t bytes);

 private:
  friend class HandleStore;
  struct Books;
  std::shared_ptr<Books> books_;  // null: nothing
  std::string principal_;
  uint64_t bytes_ = 0, handles_ = 0;
};

// What a handle stands for. Immutable; shared by the store and whoever reads it, so that a handle that ends does not end a run.
class Stored {
 public:
  Stored(api::Handle info, api::Chunk data, Charge charge) : charge_(std::move(charge)), info_(std::move(info)), data_(std::move(data)) {}
  Stored(api::Handle info, api::Chunk data, Content content, Charge charge) : Stored(std::move(info), std::move(data), std::move(charge)) {
    std::call_once(once_, [&] { content_ = std::move(content); });
  }

  const api::Handle& info() const { return info_; }  // without seconds_left
  const api::Chunk& data() const { return data_; }   // on the host
  // Read when somebody first asks, once: some milliseconds for 10 MB. Any thread.
  const Content& content() const;

 private:
  const Charge charge_;  // first: given back when the bytes are free
  const api::Handle info_;
  const api::Chunk data_;
  mutable std::once_flag once_;
  mutable Content content_;
};

// Owns the handles of all principals, with their leases and limits. Every method may be called from any thread and returns at once; one
// mutex guards all, and no tensor is freed under it. A handle of another principal is treated like one that does not exist.
class HandleStore {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    uint64_t total_bytes = 0, principal_bytes = 0;
    size_t principal_handles = 16384;
    std::chrono::seconds max_ttl{86400};
    // The server's memory budget: takes bytes of it, or says with both numbers why not; and gives them back. Called with the mutex held.
    std::function<absl::Status(uint64_t)> reserve = [](uint64_t) { return absl::OkStatus(); };
    std::function<void(uint64_t)> release = [](uint64_t) {};
    std::function<Clock::time_point()> now = [] { return Clock::now(); };
  };

  HandleStore(Options options, obs::Metrics& metrics);
  ~HandleStore();  // from here on `release` is not called
  HandleStore(const HandleStore&) = delete;
  HandleStore& operator=(const HandleStore&) = delete;

  // Before memory is taken. RESOURCE_EXHAUSTED, with both numbers, over a limit of the principal's, of all handles, or of the budget.
  absl::StatusOr<Charge> Reserve(const std::string& principal, uint64_t bytes, size_t handles = 1);
  // INVALID_ARGUMENT for a time to live that is 0 or too long.
  absl::Status CheckTtl(uint32_t seconds) const;

  // Makes a handle; its id is the store's to give. `ttl_seconds` has passed CheckTtl.
  api::Handle Add(const std::string& principal, api::Handle info, api::Chunk data, std::optional<Content> content, Charge charge,
                  uint32_t ttl_seconds);

  // All below: NOT_FOUND as proto/fluoroscope/v1/handles.proto says, INVALID_ARGUMENT for what is no id.
  absl::StatusOr<std::shared_ptr<const Stored>> Find(const std::string& id, const std::string& principal);
  absl::StatusOr<api::Handle> Renew(const std::string& id, const std::string& principal, uint32_t ttl_seconds);
  absl::Status Delete(const std::string& id, const std::string& principal);
  // Pages of about a megabyte as messages, at least one handle each.
  api::HandlePage List(const std::string& principal, const std::string& after);

  // Ends what has outlived its time. Nobody can use such a handle in any case; this gives its bytes back.
  void Expire();

 private:
  struct Entry;
  struct State;
  Entry* FindLocked(const std::string& id, const std::string& principal, absl::Status& why);
  std::vector<std::shared_ptr<const Stored>> TakeExpiredLocked();

  const Options options_;
  const std::shared_ptr<Charge::Books> books_;
  const std::unique_ptr<State> state_;  // guarded by the books' mutex
};

}  // namespace fluoroscope::store
