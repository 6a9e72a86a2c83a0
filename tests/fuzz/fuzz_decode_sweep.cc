// Whatever the bytes of a sweep request are: no crash, and what is accepted keeps the codec's promises.
#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rpc/codec_sweep.h"

namespace {

namespace api = fluoroscope::api;
namespace rpc = fluoroscope::rpc;

constexpr rpc::DecodeLimits kLimits{.max_prompts = 64, .max_tokens = 4096};

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckPositions(const std::optional<api::Positions>& positions) { Require(!positions || !positions->empty()); }

void CheckPrompt(const api::Prompt& prompt) {
  if (const auto* ids = std::get_if<api::TokenIds>(&prompt.input)) Require(!ids->empty());
}

// What a kind of metric holds: at least one token, rows that exist, finite numbers.
struct CheckMetric {
  size_t pairs;
  void operator()(const api::LogitDifference& difference) const { Require(!difference.right.empty() && !difference.wrong.empty()); }
  void operator()(const api::MeanLogit& mean) const { Require(!mean.tokens.empty()); }
  void operator()(const api::Probability& probability) const { Require(!probability.tokens.empty()); }
  void operator()(const api::CrossEntropy&) const {}
  void operator()(const api::ToReference& to) const {
    Require(to.row < 2);  // the pair's base and source run
    CheckPositions(to.positions);
  }
  void operator()(const api::Rank&) const {}
  void operator()(const api::ReadOut& read) const {
    Require(!read.site.empty() && read.direction.shape.size() == 1);
    Require(static_cast<size_t>(read.direction.shape[0]) * sizeof(float) == read.direction.bytes.size());
    for (size_t i = 0; i < read.direction.bytes.size(); i += sizeof(float)) {
      float value;
      std::memcpy(&value, read.direction.bytes.data() + i, sizeof(value));
      Require(std::isfinite(value));
    }
  }
};

void CheckSweep(const api::SweepRequest& request) {
  const size_t pairs = request.pairs.size();
  Require(!request.model.empty() && pairs > 0 && pairs <= kLimits.max_prompts);
  for (const api::SweepPair& pair : request.pairs) {
    // The prompt that is run is there; the other one too, unless handles stand for it.
    const bool noise = request.direction == api::SweepDirection::kNoise;
    Require((noise ? pair.clean : pair.corrupt).has_value());
    Require((pair.clean && pair.corrupt) || !pair.source_handles.empty());
    if (pair.clean) CheckPrompt(*pair.clean);
    if (pair.corrupt) CheckPrompt(*pair.corrupt);
    for (const std::string& handle : pair.source_handles) Require(!handle.empty());
  }
  for (const api::Prompt& reference : request.references) CheckPrompt(reference);
  Require(!request.sites.empty() && !request.over.empty() && request.unit_block > 0 && request.window > 0);
  Require(std::set(request.over.begin(), request.over.end()).size() == request.over.size());
  CheckPositions(request.positions);
  Require(!request.positions || request.groups.empty());
  for (const api::SweepGroup& group : request.groups) {
    Require(!group.name.empty() && (group.positions.size() == 1 || group.positions.size() == pairs));
    for (const api::Positions& positions : group.positions) CheckPositions(positions);
  }
  for (const api::Intervention& edit : request.corrupt_interventions) {
    Require(!edit.select.sites.empty());
    for (const uint32_t row : edit.select.rows) Require(row < pairs);
  }
  if (request.fast) Require(request.fast->top + request.fast->random > 0 && request.fast->top <= 4096 && request.fast->random <= 4096);
  Require(!request.metrics.empty());
  for (const api::Metric& metric : request.metrics) {
    Require(!metric.name.empty());
    for (const uint32_t row : metric.rows) Require(row < pairs);
    CheckPositions(metric.positions);
    std::visit(CheckMetric{pairs}, metric.kind);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fluoroscope::v1::SweepRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  if (const auto request = rpc::DecodeSweep(message, kLimits); request.ok()) CheckSweep(*request);
  return 0;
}
