// Whatever the bytes of an attribution request are: no crash, and what is accepted keeps the codec's promises. The bytes are read as a
// request for nodes and as one for edges.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "rpc/codec_attribution.h"

namespace {

using namespace fluoroscope;  // NOLINT: a test binary of one file

constexpr rpc::DecodeLimits kLimits{.max_prompts = 64, .max_tokens = 4096};
constexpr uint32_t kMostSteps = 256, kMostVerified = 4096;

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  v1::AttributeRequest nodes;
  if (nodes.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto request = rpc::DecodeAttribute(nodes, kLimits); request.ok()) {
      Require(!request->grid.model.empty() && !request->grid.pairs.empty() && request->grid.pairs.size() <= kLimits.max_prompts);
      Require(!request->grid.sites.empty() && !request->grid.over.empty() && !request->grid.metrics.empty());
      Require(request->steps >= 1 && request->steps <= kMostSteps);
      Require(request->verify.top <= kMostVerified && request->verify.random <= kMostVerified);
      Require(nodes.has_verify() == (request->verify.top + request->verify.random > 0));
    }
  }
  v1::AttributeEdgesRequest edges;
  if (edges.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto request = rpc::DecodeAttributeEdges(edges, kLimits); request.ok()) {
      Require(!request->paths.model.empty() && !request->paths.pairs.empty() && !request->paths.metrics.empty());
      Require(!request->paths.senders.empty() && !request->paths.receivers.empty());
      Require(request->steps >= 1 && request->steps <= kMostSteps);
      Require(request->verify.top <= kMostVerified && request->verify.random <= kMostVerified);
      Require(edges.has_verify() == (request->verify.top + request->verify.random > 0));
    }
  }
  return 0;
}
