// Whatever bytes come in as a PathPatchRequest: decoding ends, and what it lets through keeps its promises.
#include <google/protobuf/stubs/logging.h>

#include <cstdlib>

#include "rpc/codec_path.h"

namespace {

using namespace fluoroscope;  // NOLINT: a test binary of one file

constexpr rpc::DecodeLimits kLimits{.max_prompts = 64, .max_tokens = 4096};

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckEnds(const std::vector<api::PathEnd>& ends, size_t pairs) {
  Require(!ends.empty());
  for (const api::PathEnd& end : ends) {
    Require(!end.nodes.empty() && (end.positions.size() <= 1 || end.positions.size() == pairs));
    for (const api::PathNode& node : end.nodes) Require(!node.site.empty());
    for (const api::Positions& positions : end.positions) Require(!positions.empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fluoroscope::v1::PathPatchRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto request = rpc::DecodePathPatch(message, kLimits);
  if (!request.ok()) return 0;
  Require(!request->model.empty() && !request->pairs.empty() && request->pairs.size() <= kLimits.max_prompts && !request->metrics.empty());
  CheckEnds(request->senders, request->pairs.size());
  CheckEnds(request->receivers, request->pairs.size());
  for (const api::Metric& metric : request->metrics)
    for (const uint32_t row : metric.rows) Require(row < request->pairs.size());
  return 0;
}
