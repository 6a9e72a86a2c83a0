#include "engine/load_model.h"

#include <chrono>

#include "api/tensor.h"
#include "base/status_macros.h"
#include "generate/decode_pool.h"
#include "model/half_products.h"
#include "obs/metrics.h"
#include "obs/version.h"
#include "run/batch_pool.h"
#include "sweep/fast_sweep_run.h"
#include "tensor/counting_allocator.h"
#include "tensor/dtype.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/end_tokens.h"

namespace fluoroscope::engine {

namespace {

using Charge = std::shared_ptr<const residency::WeightBudget::Charge>;

// Weights with what they are charged, for whoever drops them last.
struct Held {
  Charge charge;
  std::shared_ptr<const model::Model> weights;
  ~Held() {
    weights.reset();
    tensor::ReleaseCache();  // else up to a hundred MB of an unloaded model would wait for somebody who needs blocks of that size
  }
};

std::shared_ptr<sweep::HalfModel> MakeHalf(const model::Model& model, std::shared_ptr<residency::WeightBudget> budget) {
  auto half = std::make_shared<sweep::HalfModel>();
  half->reserve = [bytes = model::HalfProducts::Bytes(model), budget = std::move(budget)]() -> absl::StatusOr<std::shared_ptr<const void>> {
    if (Charge charge = budget->TryCharge(bytes); charge != nullptr) return std::shared_ptr<const void>(std::move(charge));
    return absl::ResourceExhaustedError("the first fast sweep needs " + std::to_string(bytes) + " bytes for the model's bfloat16 copy; " +
                                        std::to_string(budget->charged_bytes()) + " of the " + std::to_string(budget->limit_bytes()) +
                                        " bytes for weights (device.weights_mib) are taken");
  };
  return half;
}

absl::Status LoadInto(LoadedModel& model, const config::ModelConfig& config, const LoadOptions& options, Charge charge) {
  absl::StatusOr<std::shared_ptr<const model::Model>> weights =
      model::Model::Load(config.path, {config.dtype, options.device, options.progress});
  if (!weights.ok()) return absl::Status(weights.status().code(), config.path + ": " + std::string(weights.status().message()));
  const auto held = std::make_shared<Held>();
  held->charge = std::move(charge);
  held->weights = *std::move(weights);
  model.held = held;
  model.model = std::shared_ptr<const model::Model>(held, held->weights.get());
  absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> tokenizer = tokenizer::Tokenizer::Load(config.path);
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  if (tokenizer.ok()) model.tokenizer = *std::move(tokenizer);
  FS_ASSIGN_OR_RETURN(model.chat_template, tokenizer::FindChatTemplate(config.path));
  FS_ASSIGN_OR_RETURN(model.end_of_sequence, tokenizer::FindEndTokens(config.path));
  // What no token of the model can be ends nothing.
  std::erase_if(model.end_of_sequence, [&](int64_t id) { return id >= model.model->arch.vocabulary; });
  model.half = MakeHalf(*model.model, options.budget);
  model.decoding = std::make_shared<generate::DecodePool>(model.model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<LoadedModel>> LoadModel(const config::ModelConfig& config, const LoadOptions& options, Charge charge,
                                                       obs::Metrics& metrics) {
  const auto start = std::chrono::steady_clock::now();
  auto model = std::make_shared<LoadedModel>();
  model->name = config.name;
  model->device = options.device_name;
  if (absl::Status status = LoadInto(*model, config, options, std::move(charge)); !status.ok())
    return absl::Status(status.code(), "model '" + config.name + "': " + std::string(status.message()));
  model->batching = std::make_shared<run::BatchPool>(model->model, model->name, metrics);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  model->gauges = std::make_unique<ModelGauges>(metrics, model->name);
  model->gauges->SetLoaded(model->model->weights_sha256, static_cast<uint64_t>(model->model->weights.Bytes()), seconds);
  return model;
}

api::Provenance ProvenanceOf(const LoadedModel& model, uint32_t threads) {
  api::Provenance provenance;
  provenance.model = model.name;
  provenance.revision = model.model->revision;
  provenance.weights_sha256 = model.model->weights_sha256;
  provenance.tokenizer_sha256 = model.tokenizer ? model.tokenizer->sha256() : "";
  provenance.dtype = std::string(api::NameOf(*tensor::ToApiDType(model.model->dtype)));
  provenance.device = model.device;
  provenance.server_version = std::string(obs::Version());
  provenance.threads = threads;
  return provenance;
}

}  // namespace fluoroscope::engine
