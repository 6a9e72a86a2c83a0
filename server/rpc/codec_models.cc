#include "rpc/codec_models.h"

#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

void EncodeInfo(const api::ModelInfo& info, pb::ModelInfo* out) {
  out->set_name(info.name);
  out->set_family(info.family);
  out->set_layers(info.layers);
  out->set_d_model(info.d_model);
  out->set_heads(info.heads);
  out->set_kv_heads(info.kv_heads);
  out->set_d_head(info.d_head);
  out->set_d_mlp(info.d_mlp);
  out->set_vocabulary(info.vocabulary);
  out->set_context(info.context);
  out->set_norm_eps(info.norm_eps);
  out->set_parameters(info.parameters);
  out->set_weight_bytes(info.weight_bytes);
  out->set_dtype(info.dtype);
  out->set_device(info.device);
  out->set_weights_sha256(info.weights_sha256);
  out->set_tokenizer_sha256(info.tokenizer_sha256);
  out->set_revision(info.revision);
  out->set_default_bos(info.default_bos);
}

pb::UnloadedModel::State StateOf(api::ModelState state) {
  switch (state) {
    case api::ModelState::kAvailable:
      return pb::UnloadedModel::STATE_AVAILABLE;
    case api::ModelState::kLoading:
      return pb::UnloadedModel::STATE_LOADING;
    case api::ModelState::kUnloading:
      return pb::UnloadedModel::STATE_UNLOADING;
  }
  return pb::UnloadedModel::STATE_UNSPECIFIED;
}

void EncodeSite(const api::SiteInfo& site, pb::Site* out) {
  out->set_name(site.name);
  out->set_equation(site.equation);
  for (const std::string& axis : site.axes) out->add_axes(axis);
  out->mutable_shape()->Add(site.shape.begin(), site.shape.end());
  out->set_readable(site.readable);
  out->set_editable(site.editable);
  out->set_has_gradient(site.has_gradient);
  out->set_unavailable_because(site.unavailable_because);
}

}  // namespace

absl::StatusOr<std::string> DecodeModelName(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("model is empty; Models.ListModels gives the names");
  constexpr size_t kLongest = 64;  // as in the configuration
  if (name.size() > kLongest)
    return absl::InvalidArgumentError(absl::StrCat("model has ", name.size(), " bytes; names have at most ", kLongest));
  return name;
}

absl::Status DecodeListModels(const pb::ListModelsRequest& request) { return CheckStrict(request); }

absl::StatusOr<std::string> DecodeGetModel(const pb::GetModelRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  return DecodeModelName(request.model());
}

absl::StatusOr<TokenizeRequest> DecodeTokenize(const pb::TokenizeRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  TokenizeRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  FS_ASSIGN_OR_RETURN(out.prompts, DecodePrompts(request.prompts(), limits));
  return out;
}

absl::StatusOr<DetokenizeRequest> DecodeDetokenize(const pb::DetokenizeRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  DetokenizeRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  if (request.rows_size() > static_cast<int64_t>(limits.max_prompts)) {
    return absl::ResourceExhaustedError(absl::StrCat("rows has ", request.rows_size(), " entries; this server takes at most ",
                                                     limits.max_prompts, " in one request (limits.max_prompts)"));
  }
  const FieldPath root;
  for (int r = 0; r < request.rows_size(); ++r) {
    const FieldPath row{&root, "rows", r};
    const auto& ids = request.rows(r).ids();
    for (int i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0) return InvalidAt({&row, "ids", i}, "is ", ids[i], "; token ids are not negative");
    }
    out.rows.emplace_back(ids.begin(), ids.end());
  }
  out.skip_special_tokens = request.skip_special_tokens();
  return out;
}

absl::StatusOr<std::string> DecodeListWeights(const pb::ListWeightsRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  return DecodeModelName(request.model());
}

absl::StatusOr<api::ReadWeightsRequest> DecodeReadWeights(const pb::ReadWeightsRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::ReadWeightsRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  out.name = request.name();
  if (out.name.empty()) return InvalidAt({&root, "name"}, "is empty; Models.ListWeights gives the names");
  if (out.name.size() > kMaxNameBytes) return InvalidAt({&root, "name"}, "is longer than ", kMaxNameBytes, " bytes");
  constexpr int kMostAxes = 8;  // more than any weight has
  FS_RETURN_IF_ERROR(CheckEntries({&root, "slices"}, request.slices_size(), kMostAxes));
  for (int i = 0; i < request.slices_size(); ++i) {
    const FieldPath path{&root, "slices", i};
    const pb::AxisSlice& slice = request.slices(i);
    if (slice.has_at()) {
      const auto& indices = slice.at().indices();
      if (indices.empty()) return InvalidAt({&path, "at.indices"}, "is empty: give at least one");
      FS_RETURN_IF_ERROR(CheckEntries({&path, "at.indices"}, indices.size()));
      out.slices.emplace_back(api::AxisIndices(indices.begin(), indices.end()));
      continue;
    }
    api::AxisRange range;
    if (slice.range().has_start()) range.start = slice.range().start();
    if (slice.range().has_end()) range.end = slice.range().end();
    out.slices.emplace_back(range);
  }
  return out;
}

pb::ListWeightsReply EncodeWeightList(const std::vector<api::WeightInfo>& weights) {
  pb::ListWeightsReply reply;
  for (const api::WeightInfo& info : weights) {
    pb::Weight* out = reply.add_weights();
    out->set_name(info.name);
    for (const std::string& axis : info.axes) out->add_axes(axis);
    out->mutable_shape()->Add(info.shape.begin(), info.shape.end());
  }
  return reply;
}

absl::StatusOr<api::LoadModelRequest> DecodeLoadModel(const pb::LoadModelRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  api::LoadModelRequest out;
  FS_ASSIGN_OR_RETURN(out.name, DecodeModelName(request.model()));
  out.dtype = request.dtype();
  if (!out.dtype.empty() && out.dtype != "f32" && out.dtype != "bf16" && out.dtype != "f16") {
    const FieldPath root;
    return InvalidAt({&root, "dtype"}, "is \"", absl::CEscape(out.dtype.substr(0, kMaxNameBytes)),
                     "\"; it must be f32, bf16 or f16, or absent for the model's own");
  }
  return out;
}

absl::StatusOr<std::string> DecodeUnloadModel(const pb::UnloadModelRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  return DecodeModelName(request.model());
}

pb::ListModelsReply EncodeModelList(const api::ModelList& list) {
  pb::ListModelsReply reply;
  for (const api::ModelInfo& info : list.loaded) EncodeInfo(info, reply.add_models());
  for (const api::UnloadedModel& other : list.others) {
    pb::UnloadedModel* out = reply.add_others();
    out->set_name(other.name);
    out->set_state(StateOf(other.state));
    out->set_loaded_bytes(other.loaded_bytes);
    out->set_total_bytes(other.total_bytes);
  }
  reply.set_weights_bytes(list.weights_bytes);
  reply.set_weights_budget_bytes(list.weights_budget_bytes);
  return reply;
}

pb::LoadModelReply EncodeLoaded(const api::LoadModelReply& loaded) {
  pb::LoadModelReply reply;
  EncodeInfo(loaded.info, reply.mutable_info());
  reply.set_was_loaded(loaded.was_loaded);
  return reply;
}

pb::UnloadModelReply EncodeUnloaded(const api::UnloadModelReply& unloaded) {
  pb::UnloadModelReply reply;
  reply.set_still_in_use(unloaded.still_in_use);
  return reply;
}

pb::GetModelReply EncodeModelDetails(const api::ModelDetails& details) {
  pb::GetModelReply reply;
  EncodeInfo(details.info, reply.mutable_info());
  for (const api::SiteInfo& site : details.sites) EncodeSite(site, reply.add_sites());
  if (details.chat_template) {
    reply.mutable_chat_template()->set_text(details.chat_template->text);
    for (const auto& [name, token] : details.chat_template->special_tokens)
      (*reply.mutable_chat_template()->mutable_special_tokens())[name] = token;
  }
  reply.mutable_end_of_sequence()->Add(details.end_of_sequence.begin(), details.end_of_sequence.end());
  return reply;
}

pb::TokenizeReply EncodeTokenized(const std::vector<api::RowInfo>& rows) {
  pb::TokenizeReply reply;
  for (const api::RowInfo& row : rows) {
    auto* out = reply.add_rows();
    out->mutable_token_ids()->Add(row.token_ids.begin(), row.token_ids.end());
    for (const std::string& token : row.tokens) out->add_tokens(token);
    out->set_bos_added(row.bos_added);
  }
  return reply;
}

pb::DetokenizeReply EncodeDetokenized(const std::vector<std::string>& texts) {
  pb::DetokenizeReply reply;
  for (const std::string& text : texts) reply.add_texts(text);
  return reply;
}

}  // namespace fluoroscope::rpc
