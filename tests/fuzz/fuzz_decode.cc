// Whatever the bytes of a request are: no crash, and what is accepted keeps the codecs' promises.
#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "rpc/codec_forward.h"
#include "rpc/codec_models.h"

namespace {

namespace api = fluoroscope::api;
namespace rpc = fluoroscope::rpc;
namespace v1 = fluoroscope::v1;

constexpr rpc::DecodeLimits kLimits{.max_prompts = 64, .max_tokens = 4096};

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckSelection(const api::Selection& select, size_t prompts) {
  Require(!select.sites.empty());
  Require(!select.positions || !select.positions->empty());
  for (const uint32_t row : select.rows) Require(row < prompts);
}

void CheckFloats(const api::Chunk& chunk) {
  size_t numbers = 1;
  for (const int64_t size : chunk.shape) numbers *= static_cast<size_t>(size);
  Require(numbers * sizeof(float) == chunk.bytes.size());
  for (size_t i = 0; i < chunk.bytes.size(); i += sizeof(float)) {
    float value;
    std::memcpy(&value, chunk.bytes.data() + i, sizeof(value));
    Require(std::isfinite(value));
  }
}

// What a kind holds: rows that exist, finite numbers.
struct CheckKind {
  size_t prompts;
  void Row(uint32_t row) const { Require(row < prompts); }
  void Rows(const std::vector<uint32_t>& rows) const {
    Require(!rows.empty());
    for (const uint32_t row : rows) Row(row);
  }
  void operator()(const api::CopyFromRow& copy) const {
    Row(copy.row);
    Require(copy.handle.empty() || copy.row == 0);
  }
  void operator()(const api::Zero&) const {}
  // A tensor or a handle, never both.
  static void Given(const api::Chunk& value, const api::HandleValues& handle) {
    if (handle.id.empty()) return CheckFloats(value);
    Require(value.bytes.empty() && (!handle.positions || !handle.positions->empty()));
  }
  void operator()(const api::MeanOfRows& mean) const {
    if (mean.handle.empty()) return Rows(mean.rows);
    Require(mean.rows.empty());
  }
  void operator()(const api::Set& set) const { Given(set.value, set.handle); }
  void operator()(const api::Add& add) const {
    Given(add.value, add.handle);
    Require(std::isfinite(add.scale));
  }
  void operator()(const api::Scale& scale) const { Require(std::isfinite(scale.factor)); }
  void operator()(const api::Interpolate& interpolate) const {
    Row(interpolate.source.row);
    Require(std::isfinite(interpolate.weight));
  }
  void operator()(const api::Resample& resample) const { Rows(resample.rows); }
  void operator()(const api::ProjectOut& project_out) const { CheckFloats(project_out.directions); }
  void operator()(const api::SwapSubspace& swap) const {
    Row(swap.source.row);
    CheckFloats(swap.directions);
  }
  void operator()(const api::Noise& noise) const { Require(std::isfinite(noise.stddev) && noise.stddev >= 0); }
};

void CheckForward(const api::ForwardRequest& request) {
  Require(!request.model.empty() && !request.prompts.empty() && request.prompts.size() <= kLimits.max_prompts);
  for (const api::Capture& capture : request.captures) {
    CheckSelection(capture.select, request.prompts.size());
    Require(capture.keep_seconds == 0 || std::holds_alternative<std::monostate>(capture.reduction) ||
            std::holds_alternative<api::ReduceLast>(capture.reduction));
    if (const auto* lens = std::get_if<api::ReduceLens>(&capture.reduction)) Require((lens->top_k > 0) != !lens->tokens.empty());
    const auto* dot = std::get_if<api::ReduceDot>(&capture.reduction);
    if (dot == nullptr) continue;
    Require(dot->directions.shape.size() == 2);
    CheckFloats(dot->directions);
  }
  for (const api::Prompt& prompt : request.prompts)
    if (const auto* activations = std::get_if<api::Activations>(&prompt.input)) CheckFloats(activations->value);
  for (const api::Intervention& intervention : request.interventions) {
    CheckSelection(intervention.select, request.prompts.size());
    std::visit(CheckKind{request.prompts.size()}, intervention.kind);
  }
}

template <typename Message, typename Decode>
void Try(const uint8_t* data, size_t size, const Decode& decode) {
  Message message;
  if (message.ParseFromArray(data, static_cast<int>(size))) decode(message);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try<v1::ForwardRequest>(data, size, [](const auto& message) {
    if (const auto request = rpc::DecodeForward(message, kLimits); request.ok()) CheckForward(*request);
  });
  Try<v1::TokenizeRequest>(data, size, [](const auto& message) { (void)rpc::DecodeTokenize(message, kLimits); });
  Try<v1::DetokenizeRequest>(data, size, [](const auto& message) { (void)rpc::DecodeDetokenize(message, kLimits); });
  Try<v1::ReadWeightsRequest>(data, size, [](const auto& message) {
    if (const auto request = rpc::DecodeReadWeights(message); request.ok())
      for (const api::AxisSlice& slice : request->slices)
        if (const auto* indices = std::get_if<api::AxisIndices>(&slice)) Require(!indices->empty());
  });
  Try<v1::LoadModelRequest>(data, size, [](const auto& message) {
    if (const auto request = rpc::DecodeLoadModel(message); request.ok()) Require(!request->name.empty() && request->dtype.size() <= 4);
  });
  Try<v1::UnloadModelRequest>(data, size, [](const auto& message) { (void)rpc::DecodeUnloadModel(message); });
  Try<v1::GetModelRequest>(data, size, [](const auto& message) { (void)rpc::DecodeGetModel(message); });
  return 0;
}
