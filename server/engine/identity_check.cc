#include "engine/identity_check.h"

#include <c10/core/InferenceMode.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/status_macros.h"
#include "engine/plan_builder.h"
#include "model/forward.h"
#include "tensor/chunk.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

constexpr int64_t kTokens = 16;

// A short text of this vocabulary, the same every time. The multiplier spreads the ids over the vocabulary.
api::TokenIds FixedPrompt(const model::Architecture& arch) {
  api::TokenIds ids;
  for (int64_t i = 0; i < std::min(kTokens, arch.context); ++i) ids.push_back((i * 7919 + 17) % arch.vocabulary);
  return ids;
}

// Row 0 looks into attention (so it is computed explicitly), row 1 has the same tokens through the fused kernel.
api::ForwardRequest CheckRequest(const LoadedModel& model) {
  api::ForwardRequest request;
  request.model = model.name;
  const api::TokenIds ids = FixedPrompt(model.model->arch);
  request.prompts = {{ids, api::Bos::kDefault, false}, {ids, api::Bos::kDefault, false}};
  const auto capture = [&](std::vector<std::string> sites, uint32_t row) {
    api::Capture c;
    c.select.sites = std::move(sites);
    c.select.rows = {row};
    request.captures.push_back(std::move(c));
  };
  capture({"blocks.*.attn.hook_pattern", "blocks.*.attn.hook_v"}, 0);
  capture({"blocks.*.hook_resid_pre", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out", "blocks.*.hook_resid_post", "blocks.*.attn.hook_z",
           "ln_final.hook_normalized"},
          1);
  request.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {1}};
  return request;
}

// The worst relative error of token vectors [tokens, ...].
double WorstRelative(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor a = found.to(at::kDouble).flatten(1), b = expected.to(at::kDouble).flatten(1);
  const at::Tensor relative = (a - b).norm(2, {1}) / b.norm(2, {1}).clamp_min(1e-30);
  return relative.max().item<double>();
}

// The larger of two errors; not a number wins, so that it is never lost.
double Worse(double a, double b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

// Keeps the tensors of the check's forward. Executor's thread only.
class IdentityCheck::Collector final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    if (auto* tensor = std::get_if<api::NamedTensor>(&part)) tensors_[tensor->name] = std::move(tensor->data);
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status status) override { status_ = std::move(status); }

  const absl::Status& status() const { return status_; }
  at::Tensor Get(const std::string& name) const { return *tensor::FromChunk(tensors_.at(name)); }
  at::Tensor Get(model::Site site, int64_t layer) const { return Get(model::FullName(site, layer)); }

 private:
  std::map<std::string, api::Chunk> tensors_;
  absl::Status status_;
};

double IdentityTolerance(at::ScalarType dtype) {
  // float32: the gate for comparisons with other libraries. 16-bit types have 8 or 11 bits.
  return dtype == at::kFloat ? 2e-5 : 3e-2;
}

std::map<model::Site, std::string> SitesRefusedFor(const IdentityErrors& errors, at::ScalarType dtype) {
  using model::Site;
  std::map<Site, std::string> refused;
  const auto check = [&](double error, const char* identity, std::initializer_list<Site> sites) {
    if (error <= IdentityTolerance(dtype)) return;  // not a number fails too
    for (Site site : sites)
      refused[site] = std::string("the self-check found that ") + identity + " does not hold (relative error " + std::to_string(error) +
                      "); its value is not to be trusted";
  };
  check(errors.residual, "resid_pre + attn_out + mlp_out = resid_post",
        {Site::kResidPre, Site::kAttnOut, Site::kResidMid, Site::kMlpOut, Site::kResidPost});
  check(errors.attention, "pattern @ v = z", {Site::kPattern, Site::kV, Site::kZ, Site::kAttnScores, Site::kResult});
  check(errors.pattern_sum, "rows of pattern sum to 1", {Site::kPattern, Site::kAttnScores});
  check(errors.logits, "final norm + unembedding = logits", {Site::kLnFinalScale, Site::kLnFinalNormalized});
  return refused;
}

absl::StatusOr<std::shared_ptr<IdentityCheck>> IdentityCheck::Create(std::shared_ptr<const LoadedModel> model, obs::Metrics& metrics,
                                                                     Done done) {
  // The same model with nothing refused: what failed once is looked at again, and may come back.
  LoadedModel unrefused;
  unrefused.name = model->name;
  unrefused.model = model->model;
  config::Limits limits;
  limits.sink_buffer_mib = std::numeric_limits<uint32_t>::max();  // the collector keeps everything
  FS_ASSIGN_OR_RETURN(BuiltPlan built, BuildPlan(unrefused, CheckRequest(*model), limits));
  auto check = std::shared_ptr<IdentityCheck>(new IdentityCheck());
  check->collector_ = std::make_shared<Collector>();
  check->peak_bytes_ = 2 * built.cost.peak_bytes;  // the comparison copies, in float64, a layer at a time
  api::ForwardHeader header;
  header.provenance.model = model->name;
  check->forward_ = std::make_shared<run::ForwardRun>(std::move(built.plan), std::move(header), check->collector_, metrics);
  check->model_ = std::move(model);
  check->done_ = std::move(done);
  return check;
}

sched::Work::Progress IdentityCheck::Step() {
  if (forward_ != nullptr) {
    if (forward_->Step() == Progress::kDone) forward_.reset();
    return Progress::kMore;
  }
  if (!collector_->status().ok()) {
    Finish(collector_->status());
    return Progress::kDone;
  }
  const bool more = next_layer_ < model_->model->arch.layers;
  const absl::Status status = tensor::GuardTorch([&] {
    const c10::InferenceMode no_gradients;
    more ? CompareLayer(next_layer_++) : CompareLogits();
  });
  if (status.ok() && more) return Progress::kMore;
  status.ok() ? Finish(errors_) : Finish(status);
  return Progress::kDone;
}

void IdentityCheck::Abort(absl::Status why) { Finish(std::move(why)); }

// Whoever is told may count on the model's memory at once: nothing here, nor in the plan, may hold it any more. The executor lets go of
// this work only later.
void IdentityCheck::Finish(absl::StatusOr<IdentityErrors> result) {
  forward_.reset();
  collector_.reset();
  model_.reset();
  std::exchange(done_, nullptr)(std::move(result));
}

void IdentityCheck::CompareLayer(int64_t layer) {
  using model::Site;
  const at::Tensor sum =
      collector_->Get(Site::kResidPre, layer) + collector_->Get(Site::kAttnOut, layer) + collector_->Get(Site::kMlpOut, layer);
  errors_.residual = Worse(WorstRelative(sum, collector_->Get(Site::kResidPost, layer)), errors_.residual);

  const at::Tensor pattern = collector_->Get(Site::kPattern, layer).to(at::kDouble);  // [heads, query, key]
  const model::Architecture& arch = model_->model->arch;
  const at::Tensor v = collector_->Get(Site::kV, layer).to(at::kDouble).transpose(0, 1).repeat_interleave(arch.heads / arch.kv_heads, 0);
  errors_.attention = Worse(WorstRelative(at::matmul(pattern, v).transpose(0, 1), collector_->Get(Site::kZ, layer)), errors_.attention);
  errors_.pattern_sum = Worse((pattern.sum(-1) - 1.0).abs().max().item<double>(), errors_.pattern_sum);
}

void IdentityCheck::CompareLogits() {
  const model::Model& model = *model_->model;
  const model::NormWeights& norm = model.weights.ln_final;
  // By another way than the forward pass: the norm in float64 from the residual, the product by the library's kernel.
  at::Tensor x = collector_->Get(model::Site::kResidPost, model.arch.layers - 1).to(at::kDouble);
  if (model.arch.norm == model::Norm::kLayer) x = x - x.mean(-1, true);
  x = x / at::sqrt(at::square(x).mean(-1, true) + model.arch.norm_eps) * norm.weight.to(at::kCPU).to(at::kDouble);
  if (norm.bias.defined()) x = x + norm.bias.to(at::kCPU).to(at::kDouble);
  const at::Tensor logits =
      at::linear(x.to(model.dtype).to(model.device), model.weights.unembed.weight, model.weights.unembed.bias).to(at::kCPU);
  errors_.logits = Worse(WorstRelative(logits, collector_->Get("logits")), errors_.logits);
}

}  // namespace fluoroscope::engine
