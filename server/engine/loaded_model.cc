#include "engine/loaded_model.h"

#include "api/tensor.h"
#include "base/status_macros.h"
#include "generate/decode_pool.h"
#include "model/sites.h"
#include "obs/version.h"
#include "tensor/dtype.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/end_tokens.h"

namespace fluoroscope::engine {
namespace {

absl::Status LoadInto(LoadedModel& model, const config::ModelConfig& config, at::Device device) {
  absl::StatusOr<std::shared_ptr<const model::Model>> weights = model::Model::Load(config.path, {config.dtype, device});
  if (!weights.ok()) return absl::Status(weights.status().code(), config.path + ": " + std::string(weights.status().message()));
  model.model = *std::move(weights);
  absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> tokenizer = tokenizer::Tokenizer::Load(config.path);
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  if (tokenizer.ok()) model.tokenizer = *std::move(tokenizer);
  FS_ASSIGN_OR_RETURN(model.chat_template, tokenizer::FindChatTemplate(config.path));
  FS_ASSIGN_OR_RETURN(model.end_of_sequence, tokenizer::FindEndTokens(config.path));
  // What no token of the model can be ends nothing.
  std::erase_if(model.end_of_sequence, [&](int64_t id) { return id >= model.model->arch.vocabulary; });
  model.decoding = std::make_shared<generate::DecodePool>(model.model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<LoadedModel>> LoadModel(const config::ModelConfig& config, const std::string& device_name,
                                                       at::Device device) {
  auto model = std::make_shared<LoadedModel>();
  model->name = config.name;
  model->device = device_name;
  if (absl::Status status = LoadInto(*model, config, device); !status.ok())
    return absl::Status(status.code(), "model '" + config.name + "': " + std::string(status.message()));
  return model;
}

void RefusedSites::Set(std::map<model::Site, std::string> refused) {
  const std::lock_guard lock(mutex_);
  refused_ = std::move(refused);
}

std::string RefusedSites::Why(model::Site site) const {
  const std::lock_guard lock(mutex_);
  const auto it = refused_.find(site);
  return it == refused_.end() ? "" : it->second;
}

api::ModelInfo LoadedModel::Info() const {
  const model::Architecture& arch = model->arch;
  api::ModelInfo info;
  info.name = name;
  info.family = arch.family;
  info.layers = static_cast<uint32_t>(arch.layers);
  info.d_model = static_cast<uint32_t>(arch.d_model);
  info.heads = static_cast<uint32_t>(arch.heads);
  info.kv_heads = static_cast<uint32_t>(arch.kv_heads);
  info.d_head = static_cast<uint32_t>(arch.d_head);
  info.d_mlp = static_cast<uint32_t>(arch.d_mlp);
  info.vocabulary = static_cast<uint32_t>(arch.vocabulary);
  info.context = static_cast<uint32_t>(arch.context);
  info.parameters = static_cast<uint64_t>(model->weights.Parameters());
  info.weight_bytes = static_cast<uint64_t>(model->weights.Bytes());
  info.dtype = std::string(api::NameOf(*tensor::ToApiDType(model->dtype)));
  info.device = device;
  info.weights_sha256 = model->weights_sha256;
  info.tokenizer_sha256 = tokenizer ? tokenizer->sha256() : "";
  info.revision = model->revision;
  info.default_bos = tokenizer && tokenizer->adds_bos_by_default();
  return info;
}

api::Provenance LoadedModel::Provenance() const {
  const api::ModelInfo info = Info();
  api::Provenance provenance;
  provenance.model = info.name;
  provenance.revision = info.revision;
  provenance.weights_sha256 = info.weights_sha256;
  provenance.tokenizer_sha256 = info.tokenizer_sha256;
  provenance.dtype = info.dtype;
  provenance.device = info.device;
  provenance.server_version = std::string(obs::Version());
  return provenance;
}

api::ModelDetails LoadedModel::Details() const {
  api::ModelDetails details;
  details.info = Info();
  for (const model::SiteSpec& spec : model::Sites()) {
    api::SiteInfo site;
    site.name = (spec.in_block ? "blocks.{l}." : "") + std::string(spec.name);
    site.equation = std::string(spec.equation);
    for (model::Axis axis : spec.axes) {
      site.axes.emplace_back(model::NameOf(axis));
      site.shape.push_back(model::SizeOf(axis, model->arch));
    }
    std::string why = model::Unavailable(spec.site, model->arch).value_or("");
    if (why.empty()) why = refused.Why(spec.site);
    site.readable = why.empty();
    site.editable = why.empty() && spec.editable;
    site.unavailable_because = std::move(why);
    details.sites.push_back(std::move(site));
  }
  details.chat_template = chat_template;
  details.end_of_sequence = end_of_sequence;
  return details;
}

}  // namespace fluoroscope::engine
