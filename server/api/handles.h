// What the server does with handles: the interface behind proto/fluoroscope/v1/handles.proto, which documents meaning and errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/call.h"
#include "api/handle.h"
#include "api/plan.h"
#include "api/results.h"

namespace fluoroscope::api {

// What an upload announces. rpc/ has checked what can be checked without the model.
struct PutHeader {
  std::string model, site;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // every axis at least 1; the bytes fit 64 bits
  std::vector<int32_t> positions;
  std::vector<int64_t> token_ids;
  std::vector<int32_t> heads, units;
  uint32_t ttl_seconds = 0;
};

// The part of a handle's tensor that is read.
struct HandleSlice {
  std::string id;
  std::optional<Positions> positions;  // absent: all
  std::vector<uint32_t> heads, units;  // empty: all
};

struct HandlePage {
  std::vector<Handle> handles;
  std::string next;  // empty: that was all
};

// A tensor on its way in. Its memory and its charge go with it, unless Finish has made a handle of them. One thread at a time.
class Upload {
 public:
  virtual ~Upload() = default;
  // The next bytes; `offset` says where they belong. INVALID_ARGUMENT when that is not where the last ones ended, or behind the end.
  virtual absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) = 0;
  // The end. INVALID_ARGUMENT when bytes are missing.
  virtual absl::StatusOr<Handle> Finish() = 0;
};

// Every method may be called from any thread. All but Get answer at once.
class Handles {
 public:
  virtual ~Handles() = default;
  virtual absl::StatusOr<std::unique_ptr<Upload>> Put(const PutHeader& header, const CallContext& call) = 0;
  // A header without rows, one tensor, a summary.
  virtual void Get(HandleSlice slice, CallContext call, std::shared_ptr<ForwardSink> sink) = 0;
  virtual HandlePage List(const std::string& after, const CallContext& call) = 0;
  virtual absl::StatusOr<Handle> Renew(const std::string& id, uint32_t ttl_seconds, const CallContext& call) = 0;
  virtual absl::Status Delete(const std::string& id, const CallContext& call) = 0;
};

}  // namespace fluoroscope::api
