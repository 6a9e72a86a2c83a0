#include "engine/loaded_model.h"

#include "api/tensor.h"
#include "model/sites.h"
#include "tensor/dtype.h"

namespace fluoroscope::engine {
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
  info.norm_eps = arch.norm_eps;
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
    site.has_gradient = why.empty() && model::HasGradient(spec.site);
    site.unavailable_because = std::move(why);
    details.sites.push_back(std::move(site));
  }
  details.chat_template = chat_template;
  details.end_of_sequence = end_of_sequence;
  return details;
}

}  // namespace fluoroscope::engine
