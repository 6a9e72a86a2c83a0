#include "engine/handle_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/handle_upload.h"
#include "engine/load_model.h"
#include "engine/resolve.h"
#include "engine/weight_slice.h"

namespace fluoroscope::engine {
namespace {

store::HandleStore::Options StoreOptionsOf(const config::ServerConfig& config, sched::Executor& executor) {
  store::HandleStore::Options options;
  options.total_bytes = config.handles.total_bytes;
  options.principal_bytes = config.handles.principal_bytes;
  options.max_ttl = std::chrono::seconds(config.handles.max_ttl_seconds);
  options.reserve = [&executor](uint64_t bytes) { return executor.Reserve(bytes); };
  options.release = [&executor](uint64_t bytes) { executor.Release(bytes); };
  return options;
}

class Keeper final : public run::CaptureKeeper {
 public:
  Keeper(store::HandleStore& store, store::Charge charge, std::string principal, const LoadedModel& model, const BuiltPlan& built)
      : store_(store),
        charge_(std::move(charge)),
        principal_(std::move(principal)),
        model_(model.name),
        weights_sha256_(model.model->weights_sha256),
        plan_sha256_(built.hash) {
    for (const run::RowPlan& row : built.plan.rows) lengths_.push_back(static_cast<uint32_t>(row.length()));
  }

  std::vector<api::Handle> Keep(std::vector<run::KeptCapture> captures) override {
    std::vector<api::Handle> handles;
    for (run::KeptCapture& capture : captures) {
      api::NamedTensor& tensor = capture.tensor;
      api::Handle info;
      info.model = model_;
      info.weights_sha256 = weights_sha256_;
      info.site = std::move(tensor.name);
      info.layer = tensor.layer;
      info.dtype = tensor.data.dtype;
      info.shape = tensor.data.shape;
      info.row = tensor.row;
      info.row_length = lengths_[tensor.row];
      info.positions = std::move(tensor.positions);
      // A row that began with activations may have no tokens.
      if (tensor.token_ids.empty() || tensor.token_ids.front() != run::kNoToken) info.token_ids = std::move(tensor.token_ids);
      info.heads = std::move(tensor.heads);
      info.units = std::move(tensor.units);
      info.plan_sha256 = plan_sha256_;
      info.capture = tensor.capture;
      const uint64_t bytes = tensor.data.bytes.size();
      handles.push_back(
          store_.Add(principal_, std::move(info), std::move(tensor.data), std::nullopt, charge_.Split(bytes), capture.ttl_seconds));
    }
    return handles;
  }

 private:
  store::HandleStore& store_;
  store::Charge charge_;
  const std::string principal_, model_, weights_sha256_, plan_sha256_;
  std::vector<uint32_t> lengths_;  // of the rows
};

// What a slice has of a list that the handle may have whole: empty for all.
std::vector<int32_t> Chosen(const std::vector<int64_t>& asked, const std::vector<int32_t>& has) {
  return asked.empty() ? has : std::vector<int32_t>(asked.begin(), asked.end());
}

}  // namespace

HandleService::HandleService(const config::ServerConfig& config, sched::Executor& executor, obs::Metrics& metrics, Engine engine)
    : threads_(config.threads), engine_(std::move(engine)), store_(StoreOptionsOf(config, executor), metrics) {}

absl::StatusOr<std::unique_ptr<api::Upload>> HandleService::Put(const api::PutHeader& header, const api::CallContext& call) {
  FS_RETURN_IF_ERROR(store_.CheckTtl(header.ttl_seconds));
  FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, engine_.find(header.model));
  return BeginUpload(header, *model, call.principal, store_);
}

void HandleService::Get(api::HandleSlice slice, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) {
  engine_.prepare(call, sink, [this, slice = std::move(slice), call, sink] { return SubmitGet(slice, call, sink); });
}

absl::Status HandleService::SubmitGet(const api::HandleSlice& slice, const api::CallContext& call,
                                      const std::shared_ptr<api::ForwardSink>& sink) {
  FS_ASSIGN_OR_RETURN(const StoredHandle handle, store_.Find(slice.id, call.principal));
  const api::Handle& info = handle->info();
  FS_ASSIGN_OR_RETURN(const std::shared_ptr<LoadedModel> model, engine_.find(info.model));
  FS_ASSIGN_OR_RETURN(const HookPoint hook, ExactSite(*model, info.site, "handle"));
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> heads, ResolveHeads(*model, slice.heads, hook, "heads"));
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> units, ResolveUnits(*model, slice.units, hook, "units"));
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> positions, HandlePositions(*handle, *model, slice.positions, "positions"));
  // All that the handle has, where nothing is chosen.
  const std::vector<int64_t> own_heads(info.heads.begin(), info.heads.end()), own_units(info.units.begin(), info.units.end());
  FS_ASSIGN_OR_RETURN(const HandlePart part, PartOf(*handle, *model, hook.site, hook.layer, positions, heads.empty() ? own_heads : heads,
                                                    units.empty() ? own_units : units, "slice"));
  const model::SiteSpec& spec = model::SpecOf(hook.site);
  WeightSlice out;
  out.name = info.site;
  out.view = ViewOf(handle);
  out.hash = info.plan_sha256;
  const int position_axis = model::PositionAxis(spec), head_axis = model::HeadAxis(spec);
  const auto gather = [&](int64_t axis, const std::vector<int64_t>& entries) {
    if (entries.empty()) return;
    if (entries.back() - entries.front() + 1 == static_cast<int64_t>(entries.size())) {
      out.view = out.view.narrow(axis, entries.front(), static_cast<int64_t>(entries.size()));
    } else {
      out.gather.emplace_back(axis, entries);
    }
  };
  // From the outermost axis on.
  if (head_axis >= 0 && head_axis < position_axis) gather(head_axis, part.place.heads);
  gather(position_axis, part.place.positions);
  if (head_axis > position_axis) gather(head_axis, part.place.heads);
  gather(out.view.dim() - 1, part.place.units);
  FS_RETURN_IF_ERROR(CountSlice(out));
  api::NamedTensor named;
  named.row = info.row;
  named.layer = info.layer;
  named.positions.assign(positions.begin(), positions.end());
  for (const int64_t line : part.place.positions)
    if (!info.token_ids.empty()) named.token_ids.push_back(info.token_ids[static_cast<size_t>(line)]);
  named.heads = Chosen(heads, info.heads);
  named.units = Chosen(units, info.units);
  api::ForwardHeader header;
  header.provenance = ProvenanceOf(*model, threads_);
  header.provenance.plan_sha256 = info.plan_sha256;
  const uint64_t peak_bytes = out.peak_bytes;
  engine_.submit(ReadSlice(std::move(out), handle, std::move(header), sink, std::move(named)), peak_bytes, /*flops=*/0, call, sink);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<run::CaptureKeeper>> HandleService::KeeperFor(const BuiltPlan& built, const LoadedModel& model,
                                                                             const api::CallContext& call) {
  size_t count = 0;
  for (const run::RowPlan& row : built.plan.rows)
    for (const run::CapturePlan& capture : row.captures) {
      if (capture.keep_seconds == 0) continue;
      ++count;
      if (absl::Status status = store_.CheckTtl(capture.keep_seconds); !status.ok())
        return absl::InvalidArgumentError(absl::StrCat("captures[", capture.index, "].keep.", std::string(status.message())));
    }
  if (count == 0) return nullptr;
  FS_ASSIGN_OR_RETURN(store::Charge charge, store_.Reserve(call.principal, built.cost.handle_bytes, count));
  return std::make_unique<Keeper>(store_, std::move(charge), call.principal, model, built);
}

}  // namespace fluoroscope::engine
