#include "engine/model_service.h"

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "api/tensor.h"
#include "base/status_macros.h"
#include "engine/load_model.h"
#include "engine/self_check.h"
#include "obs/metrics.h"
#include "spdlog/spdlog.h"
#include "tensor/compute_threads.h"
#include "tensor/dtype.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::engine {
namespace {

using residency::ModelTable;
using residency::Source;
using residency::State;

// Loads that wait for the loader; more are refused.
constexpr size_t kMaxLoads = 256;

std::shared_ptr<LoadedModel> AsLoaded(const ModelTable::Model& model) {
  return std::static_pointer_cast<LoadedModel>(model);  // the table holds nothing else
}

absl::Status ShuttingDown() { return absl::UnavailableError("the server is shutting down"); }

// Clients name models and learn nothing of where they lie.
absl::Status WithoutPath(const absl::Status& status, const Source& source) {
  return absl::Status(status.code(),
                      absl::StrReplaceAll(std::string(status.message()), {{source.path + "/", ""}, {source.path, "its directory"}}));
}

api::ModelState StateOf(State state) {
  if (state == State::kLoading) return api::ModelState::kLoading;
  return state == State::kUnloading ? api::ModelState::kUnloading : api::ModelState::kAvailable;
}

}  // namespace

ModelService::ModelService(Engine engine)
    : engine_(std::move(engine)),
      store_(engine_.config.model_store),
      budget_(std::make_shared<residency::WeightBudget>(engine_.config.weights_bytes)),
      loader_(kMaxLoads) {
  for (const config::ModelConfig& model : engine_.config.models) table_.Know({model.name, model.path, model.dtype});
}

void ModelService::BecomeAlone() {
  std::promise<void> done;
  loader_.Post([&] {
    tensor::ComputeAlone();
    done.set_value();
  });
  done.get_future().wait();
}

absl::Status ModelService::Start(at::Device device) {
  device_ = device;
  for (const config::ModelConfig& model : engine_.config.models) {
    if (model.load_on_request) continue;
    std::promise<absl::Status> ended;
    Request({model.name, model.path, model.dtype}, "", /*at_start=*/true,
            [&](const absl::StatusOr<api::LoadModelReply>& reply) { ended.set_value(reply.status()); });
    FS_RETURN_IF_ERROR(ended.get_future().get());
  }
  return absl::OkStatus();
}

void ModelService::Stop() {
  stopping_ = true;
  table_.CancelLoads();
  engine_.executor.Poke();  // a load may wait for its model's check, and that for memory which others hold
  loader_.Stop();
}

absl::StatusOr<std::shared_ptr<LoadedModel>> ModelService::Find(const std::string& name) const {
  FS_ASSIGN_OR_RETURN(const ModelTable::Model model, table_.Find(name));
  return AsLoaded(model);
}

std::vector<std::shared_ptr<LoadedModel>> ModelService::Loaded() const {
  std::vector<std::shared_ptr<LoadedModel>> loaded;
  for (const ModelTable::Line& line : table_.List())
    if (line.model != nullptr) loaded.push_back(AsLoaded(line.model));
  return loaded;
}

api::ModelList ModelService::List() const {
  api::ModelList list;
  std::map<std::string, api::UnloadedModel> others;
  if (engine_.config.allow_loading)
    for (const std::string& name : store_.Names()) others[name].name = name;
  for (const ModelTable::Line& line : table_.List()) {
    if (line.in_store && line.state == State::kAvailable) continue;  // the store knows better whether it is still there
    others.erase(line.name);
    if (line.model != nullptr) {
      list.loaded.push_back(AsLoaded(line.model)->Info());
    } else {
      others[line.name] = {line.name, StateOf(line.state), line.done_bytes, line.total_bytes};
    }
  }
  for (auto& [name, other] : others) list.others.push_back(std::move(other));
  list.weights_bytes = budget_->charged_bytes();
  list.weights_budget_bytes = budget_->limit_bytes();
  return list;
}

std::optional<bool> ModelService::Serving(const std::string& name) const {
  if (table_.Find(name).ok()) return true;
  if (table_.SourceOf(name).ok()) return false;
  return std::nullopt;
}

void ModelService::OnChange(std::function<void()> changed) {
  const std::lock_guard lock(mutex_);
  changed_ = std::move(changed);
}

void ModelService::Changed() const {
  std::function<void()> changed;
  {
    const std::lock_guard lock(mutex_);
    changed = changed_;
  }
  if (changed) changed();
}

absl::Status ModelService::CheckAllowed() const {
  if (engine_.config.allow_loading) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this server does not load or unload models at run time; its configuration would have to say allow_loading: true");
}

absl::StatusOr<Source> ModelService::SourceOf(const std::string& name) const {
  // What lies in the store is looked at anew each time.
  if (absl::StatusOr<Source> known = table_.SourceOf(name); known.ok() && !known->in_store) return known;
  absl::StatusOr<std::string> path = store_.Find(name);
  if (path.ok()) return Source{name, *std::move(path), "", /*in_store=*/true};
  if (!absl::IsNotFound(path.status())) return path.status();
  std::string names;
  const api::ModelList list = List();
  for (const api::UnloadedModel& other : list.others) absl::StrAppend(&names, names.empty() ? "" : ", ", other.name);
  return absl::NotFoundError(absl::StrCat(path.status().message(), "; can be loaded: ", names.empty() ? "none" : names));
}

void ModelService::Load(api::LoadModelRequest request, api::CallContext call, Callback<api::LoadModelReply> done) {
  if (absl::Status allowed = CheckAllowed(); !allowed.ok()) return done(std::move(allowed));
  const CancelToken gone = call.cancel;
  engine_.prepare(
      std::move(call),
      [this, request = std::move(request), done, gone] {
        absl::StatusOr<Source> source = SourceOf(request.name);
        if (!source.ok()) return done(source.status());
        Request(*source, request.dtype, /*at_start=*/false, done, gone);
      },
      done);
}

void ModelService::Request(const Source& source, const std::string& dtype, bool at_start, Callback<api::LoadModelReply> done,
                           const CancelToken& gone) {
  // Whoever comes later takes what there is, unless it asked for something else.
  const auto reply_of = [name = source.name, dtype](const absl::StatusOr<ModelTable::Model>& model,
                                                    bool at_once) -> absl::StatusOr<api::LoadModelReply> {
    if (!model.ok()) return model.status();
    api::LoadModelReply reply{AsLoaded(*model)->Info(), at_once};
    if (!dtype.empty() && dtype != reply.info.dtype)
      return absl::FailedPreconditionError(absl::StrCat("model '", name, "' is loaded in ", reply.info.dtype, "; for ", dtype,
                                                        " unload it first (UnloadModel), then load it again"));
    return reply;
  };
  const auto answer = [reply_of, done](const absl::StatusOr<ModelTable::Model>& model, bool at_once) {
    return [done, reply = reply_of(model, at_once)] { done(reply); };
  };
  std::shared_ptr<residency::LoadProgress> progress;
  if (table_.Request(source, answer, &progress, gone) != ModelTable::Answer::kLoad) return;
  if (stopping_) progress->cancel.Cancel();       // CancelLoads may have been just before
  if (gone.cancelled()) table_.CancelUnwanted();  // the same
  Source wanted = source;
  if (!dtype.empty()) wanted.dtype = dtype;
  if (!loader_.Post([this, wanted = std::move(wanted), at_start, progress] { LoadNow(wanted, at_start, *progress); }))
    table_.Failed(
        source.name, *progress,
        stopping_ ? ShuttingDown() : absl::ResourceExhaustedError(absl::StrCat(kMaxLoads, " loads are waiting already; try again later")));
}

void ModelService::LoadNow(const Source& source, bool at_start, residency::LoadProgress& progress) {
  absl::StatusOr<std::shared_ptr<LoadedModel>> model = ShuttingDown();
  if (!stopping_ && progress.cancel.cancelled()) model = absl::CancelledError("the load was cancelled");
  if (!progress.cancel.cancelled() && !stopping_) model = tensor::GuardTorch([&] { return TryLoad(source, at_start, progress); });
  if (model.ok()) {
    const api::ModelInfo info = (*model)->Info();
    spdlog::info("model {}: loaded, {} in {}, {} bytes", info.name, info.family, info.dtype, info.weight_bytes);
    table_.Loaded(source.name, progress, *std::move(model));
  } else {
    if (!at_start) spdlog::warn("model {}: not loaded: {}", source.name, std::string(model.status().message()));
    table_.Failed(source.name, progress, stopping_ ? ShuttingDown() : at_start ? model.status() : WithoutPath(model.status(), source));
  }
  Changed();
}

absl::StatusOr<std::shared_ptr<LoadedModel>> ModelService::TryLoad(const Source& source, bool at_start, residency::LoadProgress& progress) {
  const config::ModelConfig config{source.name, source.path, source.dtype};
  absl::StatusOr<uint64_t> bytes = model::Model::Measure(source.path, {source.dtype, device_});
  if (!bytes.ok())
    return absl::Status(bytes.status().code(),
                        absl::StrCat("model '", source.name, "': ", source.path, ": ", std::string(bytes.status().message())));
  progress.total_bytes = *bytes;
  FS_ASSIGN_OR_RETURN(std::shared_ptr<const residency::WeightBudget::Charge> charge, Charge(source, *bytes, at_start));
  const LoadOptions options{engine_.config.device, device_, &progress, budget_};
  FS_ASSIGN_OR_RETURN(std::shared_ptr<LoadedModel> model, LoadModel(config, options, std::move(charge), engine_.metrics));
  FS_RETURN_IF_ERROR(CheckNow(model, engine_.executor, engine_.metrics, progress.cancel));
  return model;
}

absl::StatusOr<std::shared_ptr<const residency::WeightBudget::Charge>> ModelService::Charge(const Source& source, uint64_t bytes,
                                                                                            bool at_start) {
  if (at_start && !engine_.config.weights_are_given) return budget_->ChargeAnyway(bytes);
  if (auto charge = budget_->TryCharge(bytes); charge != nullptr) return charge;
  engine_.metrics.CountRejection(obs::Rejection::kOverBudget);
  std::string holders;
  for (const std::shared_ptr<LoadedModel>& model : Loaded())
    absl::StrAppend(&holders, holders.empty() ? "" : ", ", model->name, " (", model->model->weights.Bytes(), " bytes)");
  return absl::ResourceExhaustedError(absl::StrCat(
      "model '", source.name, "' needs ", bytes, " bytes for its weights; ", budget_->charged_bytes(), " of the ", budget_->limit_bytes(),
      " bytes for weights (device.weights_mib) are taken. Could be unloaded: ", holders.empty() ? "none" : holders));
}

void ModelService::Unload(std::string name, api::CallContext call, Callback<api::UnloadModelReply> done) {
  if (absl::Status allowed = CheckAllowed(); !allowed.ok()) return done(std::move(allowed));
  // On the prepare thread: requests that came before are planned and hold what they need, and freeing a model takes a while.
  engine_.prepare(
      std::move(call), [this, name = std::move(name), done] { done(UnloadNow(name)); }, done);
}

absl::StatusOr<api::UnloadModelReply> ModelService::UnloadNow(const std::string& name) {
  absl::StatusOr<ModelTable::Model> removed = table_.Remove(name);
  if (!removed.ok()) {
    // In the store, but never asked for.
    if (absl::IsNotFound(removed.status()) && store_.Find(name).ok()) return api::UnloadModelReply{};
    return removed.status();
  }
  if (*removed != nullptr) {
    AsLoaded(*removed)->gauges->End();
    spdlog::info("model {}: unloaded", name);
    removed->reset();
    Changed();
  }
  return api::UnloadModelReply{table_.InUse(name)};
}

}  // namespace fluoroscope::engine
