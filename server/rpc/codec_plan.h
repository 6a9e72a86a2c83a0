// The parts of plans that everything else is made of: prompts, tokens, positions, selections, captures. Decoding checks everything that can
// be checked without the model; names, token ids, positions, heads and layers are checked in engine/. The message has passed CheckStrict.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "fluoroscope/v1/plan.pb.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {

// From the server's configuration.
struct DecodeLimits {
  uint32_t max_prompts = 1024;
  uint32_t max_tokens = 262144;  // counted here for prompts given as ids; engine/ counts what text becomes
};

// Longest name of a hook point or a metric.
constexpr size_t kMaxNameBytes = 256;

using RepeatedPrompts = google::protobuf::RepeatedPtrField<fluoroscope::v1::Prompt>;

// At least one, at most max_prompts, RESOURCE_EXHAUSTED with both numbers beyond it.
absl::StatusOr<std::vector<api::Prompt>> DecodePrompts(const RepeatedPrompts& prompts, const DecodeLimits& limits);

absl::StatusOr<api::Prompt> DecodePrompt(const fluoroscope::v1::Prompt& prompt, const FieldPath& path);
absl::StatusOr<api::TokenRef> DecodeTokenRef(const fluoroscope::v1::TokenRef& token, const FieldPath& path);
absl::StatusOr<std::vector<api::TokenRef>> DecodeTokenRefs(const google::protobuf::RepeatedPtrField<fluoroscope::v1::TokenRef>& tokens,
                                                           const FieldPath& parent, const char* name);
absl::StatusOr<api::Positions> DecodePositions(const fluoroscope::v1::Positions& positions, const FieldPath& path);

// `prompts` is their number: rows must be below it.
absl::StatusOr<std::vector<uint32_t>> DecodeRows(const google::protobuf::RepeatedField<uint32_t>& rows, size_t prompts,
                                                 const FieldPath& parent);
absl::StatusOr<api::Selection> DecodeSelection(const fluoroscope::v1::Selection& select, size_t prompts, const FieldPath& path);
absl::StatusOr<api::Capture> DecodeCapture(const fluoroscope::v1::Capture& capture, size_t prompts, const FieldPath& path);
}  // namespace fluoroscope::rpc
