// How requests for grids and their results are kept longer than a call: as bytes.
#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "api/path.h"
#include "api/sweep.h"

namespace fluoroscope::api {

// A request that can be run in parts.
using GridRequest = std::variant<SweepRequest, PathRequest>;

// Implemented by rpc/ with the wire's messages, given to the engine by main: the engine keeps bytes without knowing protobuf, and what is
// read back by a later version of the server keeps its meaning, because fields of messages are only ever added. Safe from any thread.
class GridCodec {
 public:
  virtual ~GridCodec() = default;

  // `kind` is "sweep" or "path_patch". INVALID_ARGUMENT, as for a call with that request.
  virtual absl::StatusOr<GridRequest> DecodeRequest(const std::string& kind, const std::string& bytes) const = 0;

  // One message of a sweep's reply.
  virtual std::string Encode(const SweepPart& part) const = 0;

  // What a resumed run has to know of a message that Encode made: which cells of which pair it finishes, or whose references it brings.
  struct Finished {
    bool reference = false;
    uint32_t pair = 0;
    std::vector<uint32_t> cells;
  };
  // DATA_LOSS when it is neither cells nor a reference.
  virtual absl::StatusOr<Finished> DecodeFinished(const std::string& bytes) const = 0;
};

}  // namespace fluoroscope::api
