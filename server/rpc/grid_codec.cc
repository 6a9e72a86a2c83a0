#include "rpc/grid_codec.h"

#include <cstring>

#include "base/status_macros.h"
#include "rpc/codec_path.h"
#include "rpc/codec_sweep.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

class Codec final : public api::GridCodec {
 public:
  explicit Codec(const config::Limits& limits) : limits_{.max_prompts = limits.max_prompts, .max_tokens = limits.max_tokens} {}

  absl::StatusOr<api::GridRequest> DecodeRequest(const std::string& kind, const std::string& bytes) const override {
    if (kind == "sweep") {
      pb::SweepRequest message;
      if (!message.ParseFromString(bytes)) return absl::InvalidArgumentError("the request is not a valid fluoroscope.v1.SweepRequest");
      return DecodeSweep(message, limits_);
    }
    if (kind == "path_patch") {
      pb::PathPatchRequest message;
      if (!message.ParseFromString(bytes)) return absl::InvalidArgumentError("the request is not a valid fluoroscope.v1.PathPatchRequest");
      return DecodePathPatch(message, limits_);
    }
    return absl::InvalidArgumentError("there are no jobs of the kind '" + kind + "'; sweep and path_patch are");
  }

  std::string Encode(const api::SweepPart& part) const override { return EncodeSweepPart(part).SerializeAsString(); }

  absl::StatusOr<Finished> DecodeFinished(const std::string& bytes) const override {
    pb::SweepReply message;
    if (!message.ParseFromString(bytes) || (!message.has_cells() && !message.has_reference()))
      return absl::DataLossError("a finished piece of a job cannot be read back");
    if (message.has_reference()) return Finished{true, message.reference().pair(), {}};
    const std::string& cells = message.cells().cells();
    Finished finished{false, message.cells().pair(), std::vector<uint32_t>(cells.size() / sizeof(uint32_t))};
    if (!finished.cells.empty()) std::memcpy(finished.cells.data(), cells.data(), finished.cells.size() * sizeof(uint32_t));
    return finished;
  }

 private:
  const DecodeLimits limits_;
};

}  // namespace

std::shared_ptr<const api::GridCodec> MakeGridCodec(const config::Limits& limits) { return std::make_shared<Codec>(limits); }

}  // namespace fluoroscope::rpc
