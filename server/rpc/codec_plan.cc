#include "rpc/codec_plan.h"

#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_tensor.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

api::Bos DecodeBos(const pb::Prompt& prompt) {
  switch (prompt.bos()) {
    case pb::BOS_ALWAYS:
      return api::Bos::kAlways;
    case pb::BOS_NEVER:
      return api::Bos::kNever;
    default:
      return api::Bos::kDefault;  // absent, or BOS_DEFAULT: CheckStrict lets no other number through
  }
}

absl::StatusOr<api::TokenIds> DecodeIds(const google::protobuf::RepeatedField<int64_t>& ids, const FieldPath& path) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0)
      return absl::InvalidArgumentError(absl::StrCat(path.ToString(), "[", i, "] is ", ids[i], "; token ids are not negative"));
  }
  return api::TokenIds(ids.begin(), ids.end());
}

absl::StatusOr<api::Activations> DecodeActivations(const pb::Activations& from, const FieldPath& path) {
  if (from.start_at().size() > kMaxNameBytes) return InvalidAt({&path, "start_at"}, "is longer than ", kMaxNameBytes, " bytes");
  api::Activations out{.start_at = from.start_at(), .value = {}, .token_ids = {}};
  FS_ASSIGN_OR_RETURN(out.value, DecodeFloats(from.value(), {&path, "value"}));
  FS_ASSIGN_OR_RETURN(out.token_ids, DecodeIds(from.token_ids(), {&path, "token_ids"}));
  return out;
}

absl::StatusOr<api::PositionItem> DecodePositionItem(const pb::Positions::Item& item, const FieldPath& path) {
  switch (item.kind_case()) {
    case pb::Positions::Item::kAll:
      return api::AllPositions{};
    case pb::Positions::Item::kLast:
      return api::LastPosition{};
    case pb::Positions::Item::kIndex:
      return int64_t{item.index()};
    case pb::Positions::Item::kRange: {
      api::PositionRange range;
      if (item.range().has_start()) range.start = item.range().start();
      if (item.range().has_end()) range.end = item.range().end();
      return range;
    }
    case pb::Positions::Item::kOccurrencesOf: {
      FS_ASSIGN_OR_RETURN(api::TokenRef token, DecodeTokenRef(item.occurrences_of(), {&path, "occurrences_of"}));
      return api::OccurrencesOf{std::move(token)};
    }
    case pb::Positions::Item::kGenerated:
      return api::GeneratedPositions{};
    case pb::Positions::Item::KIND_NOT_SET:
      break;
  }
  return InvalidAt(path, "is empty");
}

absl::StatusOr<api::Reduction> DecodeReduction(const pb::Reduction& reduction, const FieldPath& path) {
  switch (reduction.kind_case()) {
    case pb::Reduction::kLast:
      return api::ReduceLast{};
    case pb::Reduction::kTopK:
      if (reduction.top_k().k() == 0) return InvalidAt({&path, "top_k.k"}, "is 0; it must be from 1 to the size of the site's last axis");
      return api::ReduceTopK{reduction.top_k().k()};
    case pb::Reduction::kDot: {
      FS_ASSIGN_OR_RETURN(api::Chunk directions, DecodeDirections(reduction.dot().directions(), {&path, "dot.directions"}));
      return api::ReduceDot{std::move(directions)};
    }
    case pb::Reduction::kLens: {
      api::ReduceLens lens{reduction.lens().top_k(), {}};
      FS_ASSIGN_OR_RETURN(lens.tokens, DecodeTokenRefs(reduction.lens().tokens(), path, "lens.tokens"));
      if ((lens.top_k > 0) == !lens.tokens.empty()) return InvalidAt({&path, "lens"}, "needs either top_k or tokens");
      return lens;
    }
    case pb::Reduction::kWrites: {
      FS_ASSIGN_OR_RETURN(api::Chunk directions, DecodeDirections(reduction.writes().directions(), {&path, "writes.directions"}));
      return api::ReduceWrites{std::move(directions), reduction.writes().top_k()};
    }
    case pb::Reduction::KIND_NOT_SET:
      break;
  }
  return InvalidAt(path, "is empty");
}

}  // namespace

absl::StatusOr<api::Prompt> DecodePrompt(const pb::Prompt& prompt, const FieldPath& path) {
  api::Prompt out;
  if (prompt.input_case() == pb::Prompt::kText) {
    out.input = prompt.text();
    out.bos = DecodeBos(prompt);
    out.parse_special_tokens = prompt.parse_special_tokens();
    return out;
  }
  const FieldPath ids_path{&path, "tokens.ids"};
  if (prompt.has_bos()) return InvalidAt({&path, "bos"}, "must be absent when the prompt is no text: it runs exactly as given");
  if (prompt.parse_special_tokens()) return InvalidAt({&path, "parse_special_tokens"}, "must be absent when the prompt is no text");
  if (prompt.input_case() == pb::Prompt::kActivations) {
    FS_ASSIGN_OR_RETURN(out.input, DecodeActivations(prompt.activations(), {&path, "activations"}));
    return out;
  }
  if (prompt.tokens().ids().empty()) return InvalidAt(ids_path, "is empty: a prompt needs at least one token");
  FS_ASSIGN_OR_RETURN(out.input, DecodeIds(prompt.tokens().ids(), ids_path));
  return out;
}

absl::StatusOr<std::vector<api::Prompt>> DecodePrompts(const RepeatedPrompts& prompts, const DecodeLimits& limits) {
  const FieldPath root;
  if (prompts.empty()) return InvalidAt({&root, "prompts"}, "is empty: give at least one");
  if (prompts.size() > static_cast<int64_t>(limits.max_prompts)) {
    return absl::ResourceExhaustedError(absl::StrCat("prompts has ", prompts.size(), " entries; this server takes at most ",
                                                     limits.max_prompts, " in one request (limits.max_prompts)"));
  }
  std::vector<api::Prompt> out;
  out.reserve(static_cast<size_t>(prompts.size()));
  uint64_t tokens = 0;
  for (int i = 0; i < prompts.size(); ++i) {
    tokens += static_cast<uint64_t>(prompts[i].tokens().ids_size());
    FS_ASSIGN_OR_RETURN(api::Prompt prompt, DecodePrompt(prompts[i], {&root, "prompts", i}));
    out.push_back(std::move(prompt));
  }
  if (tokens > limits.max_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat("prompts has ", tokens, " token ids; this server takes at most ", limits.max_tokens,
                                                     " in one request (limits.max_tokens)"));
  }
  return out;
}

absl::StatusOr<api::TokenRef> DecodeTokenRef(const pb::TokenRef& token, const FieldPath& path) {
  if (token.token_case() == pb::TokenRef::kText) {
    if (token.text().empty()) return InvalidAt({&path, "text"}, "is empty; it must encode to exactly one token");
    return api::TokenRef(token.text());
  }
  if (token.id() < 0) return InvalidAt({&path, "id"}, "is ", token.id(), "; token ids are not negative");
  return api::TokenRef(token.id());
}

absl::StatusOr<std::vector<api::TokenRef>> DecodeTokenRefs(const google::protobuf::RepeatedPtrField<pb::TokenRef>& tokens,
                                                           const FieldPath& parent, const char* name) {
  FS_RETURN_IF_ERROR(CheckEntries({&parent, name}, tokens.size()));
  std::vector<api::TokenRef> out;
  out.reserve(static_cast<size_t>(tokens.size()));
  for (int i = 0; i < tokens.size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::TokenRef token, DecodeTokenRef(tokens[i], {&parent, name, i}));
    out.push_back(std::move(token));
  }
  return out;
}

absl::StatusOr<api::Positions> DecodePositions(const pb::Positions& positions, const FieldPath& path) {
  if (positions.items().empty())
    return InvalidAt({&path, "items"}, "is empty: give at least one item, or leave the positions out for the default");
  FS_RETURN_IF_ERROR(CheckEntries({&path, "items"}, positions.items_size()));
  api::Positions out;
  out.reserve(static_cast<size_t>(positions.items_size()));
  for (int i = 0; i < positions.items_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::PositionItem item, DecodePositionItem(positions.items(i), {&path, "items", i}));
    out.push_back(std::move(item));
  }
  return out;
}

absl::StatusOr<std::vector<uint32_t>> DecodeRows(const google::protobuf::RepeatedField<uint32_t>& rows, size_t prompts,
                                                 const FieldPath& parent) {
  FS_RETURN_IF_ERROR(CheckEntries({&parent, "rows"}, rows.size()));
  for (int i = 0; i < rows.size(); ++i) {
    if (rows[i] >= prompts) {
      return InvalidAt({&parent, "rows", i}, "is ", rows[i], "; the request has ", prompts,
                       prompts == 1 ? " prompt, so 0 is the only row" : " prompts, counted from 0");
    }
  }
  return std::vector<uint32_t>(rows.begin(), rows.end());
}

absl::StatusOr<api::Selection> DecodeSelection(const pb::Selection& select, size_t prompts, const FieldPath& path) {
  api::Selection out;
  if (select.sites().empty()) {
    return InvalidAt({&path, "sites"}, "is empty: give at least one hook name, for instance \"blocks.*.hook_resid_pre\"");
  }
  FS_RETURN_IF_ERROR(CheckEntries({&path, "sites"}, select.sites_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&path, "layers"}, select.layers_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&path, "heads"}, select.heads_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&path, "units"}, select.units_size()));
  for (int i = 0; i < select.sites_size(); ++i) {
    const std::string& site = select.sites(i);
    if (site.empty()) return InvalidAt({&path, "sites", i}, "is an empty name");
    if (site.size() > kMaxNameBytes)
      return InvalidAt({&path, "sites", i}, "has ", site.size(), " bytes; at most ", kMaxNameBytes, " are allowed");
    out.sites.push_back(site);
  }
  out.layers.assign(select.layers().begin(), select.layers().end());
  if (select.has_positions()) {
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(select.positions(), {&path, "positions"}));
  }
  out.heads.assign(select.heads().begin(), select.heads().end());
  out.units.assign(select.units().begin(), select.units().end());
  FS_ASSIGN_OR_RETURN(out.rows, DecodeRows(select.rows(), prompts, path));
  return out;
}

absl::StatusOr<api::Capture> DecodeCapture(const pb::Capture& capture, size_t prompts, const FieldPath& path) {
  api::Capture out;
  FS_ASSIGN_OR_RETURN(out.select, DecodeSelection(capture.select(), prompts, {&path, "select"}));
  if (capture.has_reduction()) {
    if (capture.reduction().has_last() && out.select.positions)
      return InvalidAt({&path, "reduction.last"},
                       "and select.positions are both given; they exclude each other: last is a choice of positions");
    if (!capture.reduction().has_last() && !out.select.units.empty())
      return InvalidAt({&path, "reduction"}, "and select.units are both given; they exclude each other: both are about the last axis");
    FS_ASSIGN_OR_RETURN(out.reduction, DecodeReduction(capture.reduction(), {&path, "reduction"}));
  }
  if (capture.has_keep()) {
    if (capture.has_reduction() && !capture.reduction().has_last())
      return InvalidAt({&path, "keep"},
                       "and this reduction exclude each other: values are kept as they are, at most of the last position only");
    out.keep_seconds = capture.keep().ttl_seconds();
    if (out.keep_seconds == 0) return InvalidAt({&path, "keep.ttl_seconds"}, "is 0; it must be at least 1");
  }
  if (!capture.gradient_of().empty()) {
    const FieldPath gradient{&path, "gradient_of"};
    if (capture.gradient_of().size() > kMaxNameBytes) return InvalidAt(gradient, "is longer than ", kMaxNameBytes, " bytes");
    if (capture.has_keep()) return InvalidAt(gradient, "and keep exclude each other: handles hold values");
    if (capture.reduction().has_lens() || capture.reduction().has_writes())
      return InvalidAt(gradient, "and this reduction exclude each other: gradients take last, top_k and dot");
    out.gradient_of = capture.gradient_of();
  }
  return out;
}

}  // namespace fluoroscope::rpc
