#include "obs/metrics.h"

#include <array>
#include <sstream>
#include <utility>
#include <vector>

#include "obs/process_metrics.h"
#include "obs/version.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace fluoroscope::obs {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Registry;

Family<Counter>& CounterFamily(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& GaugeFamily(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
Family<Histogram>& HistogramFamily(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

const Histogram::BucketBoundaries kSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
const Histogram::BucketBoundaries kRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
const Histogram::BucketBoundaries kTokens = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144};

constexpr std::array<const char*, 4> kIdentities = {"residual", "attention", "pattern_sum", "logits"};

constexpr std::array<std::pair<Rejection, const char*>, 8> kReasons = {{
    {Rejection::kQueueFull, "queue_full"},
    {Rejection::kOverBudget, "over_budget"},
    {Rejection::kDraining, "draining"},
    {Rejection::kInvalid, "invalid"},
    {Rejection::kDeadline, "deadline"},
    {Rejection::kCancelled, "cancelled"},
    {Rejection::kOutOfMemory, "out_of_memory"},
    {Rejection::kPrincipalLimit, "principal_limit"},
}};

}  // namespace

// Every metric's name and help text. Label names are given where the labels are set, below.
struct Metrics::Families {
  Registry registry;

  Family<Gauge>& build_info = GaugeFamily(registry, "fluoroscope_build_info", "Always 1; the labels say which build this is.");

  Family<Counter>& rpcs_started = CounterFamily(registry, "fluoroscope_rpcs_started_total", "RPCs that began, by method.");
  Family<Counter>& rpcs = CounterFamily(registry, "fluoroscope_rpcs_total", "RPCs that ended, by method and gRPC status code.");
  Family<Gauge>& rpcs_in_flight = GaugeFamily(registry, "fluoroscope_rpcs_in_flight", "RPCs that began and have not ended, by method.");
  Family<Histogram>& rpc_seconds =
      HistogramFamily(registry, "fluoroscope_rpc_duration_seconds", "Time from the start of an RPC to its end, sending included.");
  Family<Counter>& reply_bytes = CounterFamily(registry, "fluoroscope_rpc_reply_bytes_total", "Bytes of reply messages handed to gRPC.");

  Gauge& queue_depth = GaugeFamily(registry, "fluoroscope_queue_depth", "Requests that wait for the device.").Add({});
  Histogram& queue_wait =
      HistogramFamily(registry, "fluoroscope_queue_wait_seconds", "Time from submission to admission on the device.").Add({}, kSeconds);
  Counter& executor_busy =
      CounterFamily(registry, "fluoroscope_executor_busy_seconds_total", "Time the device's executor spent in steps of runs.").Add({});
  Gauge& executor_stuck =
      GaugeFamily(registry, "fluoroscope_executor_stuck", "1 while a single step of the device's executor takes far too long.").Add({});
  Gauge& admitted_bytes =
      GaugeFamily(registry, "fluoroscope_admitted_bytes", "Peak bytes declared by the runs that are admitted at present.").Add({});
  Gauge& budget_bytes = GaugeFamily(registry, "fluoroscope_budget_bytes", "Most bytes that may be admitted at once.").Add({});
  Family<Counter>& rejections = CounterFamily(registry, "fluoroscope_rejections_total", "Calls turned away or given up, by reason.");

  Family<Histogram>& batch_requests = HistogramFamily(registry, "fluoroscope_batch_requests", "Requests that have rows in a packed batch.");
  Family<Histogram>& batch_rows = HistogramFamily(registry, "fluoroscope_batch_rows", "Rows (sequences) in a packed batch.");
  Family<Histogram>& batch_tokens = HistogramFamily(registry, "fluoroscope_batch_tokens", "Tokens in a packed batch.");
  Family<Counter>& forward_tokens =
      CounterFamily(registry, "fluoroscope_forward_tokens_total", "Tokens that went into the first layer of a forward pass.");
  Counter& captured_bytes =
      CounterFamily(registry, "fluoroscope_captured_bytes_total", "Bytes of activations captured for replies, after reductions.").Add({});

  Family<Gauge>& model_info =
      GaugeFamily(registry, "fluoroscope_model_info", "Always 1; the models in memory with the hash of their weights.");
  Family<Gauge>& model_weight_bytes = GaugeFamily(registry, "fluoroscope_model_weight_bytes", "Resident bytes of a model's weights.");
  Family<Gauge>& model_load_seconds = GaugeFamily(registry, "fluoroscope_model_load_seconds", "Time it took to load a model.");
  Gauge& weights_bytes =
      GaugeFamily(registry, "fluoroscope_weights_bytes",
                  "Bytes that the weights of all models hold, those that are loading or unloaded and still in use included.")
          .Add({});
  Gauge& weights_budget_bytes = GaugeFamily(registry, "fluoroscope_weights_budget_bytes", "Most bytes that weights may hold.").Add({});
  Family<Gauge>& identity_error = GaugeFamily(registry, "fluoroscope_identity_relative_error",
                                              "Largest relative error of an identity between hook points at its last check.");
  Gauge& handles = GaugeFamily(registry, "fluoroscope_handles", "Activations that clients left on the server.").Add({});
  Gauge& handle_bytes =
      GaugeFamily(registry, "fluoroscope_handle_bytes", "Bytes that handles, uploads and kept captures under way hold of the budget.")
          .Add({});
  Counter& expired_handles =
      CounterFamily(registry, "fluoroscope_handles_expired_total", "Handles that ended because their time to live had passed.").Add({});

  Family<Counter>& reused_tokens =
      CounterFamily(registry, "fluoroscope_reused_tokens_total",
                    "Prompt tokens of generations that were not run because their keys and values were known.");
  Gauge& prefix_cache_bytes =
      GaugeFamily(registry, "fluoroscope_prefix_cache_bytes", "Bytes of keys and values that are kept for prompts that begin alike.")
          .Add({});

  Family<Gauge>& jobs = GaugeFamily(registry, "fluoroscope_jobs", "Jobs that the server keeps, by state.");
  Family<Gauge>& device_bytes =
      GaugeFamily(registry, "fluoroscope_device_allocated_bytes", "Bytes of tensors that the counting allocator holds now.");
  Family<Gauge>& device_peak_bytes =
      GaugeFamily(registry, "fluoroscope_device_peak_bytes", "Most bytes of tensors that the counting allocator has held.");
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
  families_->build_info.Add({{"version", std::string(Version())}, {"compiler", std::string(Compiler())}}).Set(1);
  for (const auto& [reason, name] : kReasons) families_->rejections.Add({{"reason", name}});  // a rate needs the zero before the first
}

Metrics::~Metrics() = default;

std::string Metrics::Serialize() const {
  std::vector<prometheus::MetricFamily> all = families_->registry.Collect();
  for (prometheus::MetricFamily& family : ProcessMetrics()) all.push_back(std::move(family));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, all);
  return out.str();
}

void Metrics::RpcStarted(std::string_view method) {
  const std::string name(method);
  families_->rpcs_started.Add({{"method", name}}).Increment();
  families_->rpcs_in_flight.Add({{"method", name}}).Increment();
}

void Metrics::RpcFinished(std::string_view method, std::string_view code, double seconds, uint64_t reply_bytes) {
  const std::string name(method);
  families_->rpcs_in_flight.Add({{"method", name}}).Decrement();
  families_->rpcs.Add({{"method", name}, {"code", std::string(code)}}).Increment();
  families_->rpc_seconds.Add({{"method", name}}, kSeconds).Observe(seconds);
  families_->reply_bytes.Add({{"method", name}}).Increment(static_cast<double>(reply_bytes));
}

void Metrics::SetQueueDepth(size_t waiting) { families_->queue_depth.Set(static_cast<double>(waiting)); }
void Metrics::ObserveQueueWait(double seconds) { families_->queue_wait.Observe(seconds); }
void Metrics::AddExecutorBusy(double seconds) { families_->executor_busy.Increment(seconds); }
void Metrics::SetExecutorStuck(bool stuck) { families_->executor_stuck.Set(stuck ? 1 : 0); }
void Metrics::SetAdmittedBytes(uint64_t bytes) { families_->admitted_bytes.Set(static_cast<double>(bytes)); }
void Metrics::SetBudgetBytes(uint64_t bytes) { families_->budget_bytes.Set(static_cast<double>(bytes)); }

void Metrics::CountRejection(Rejection reason) {
  for (const auto& [value, name] : kReasons) {
    if (value == reason) families_->rejections.Add({{"reason", name}}).Increment();
  }
}

void Metrics::SetJobs(std::string_view state, size_t jobs) {
  families_->jobs.Add({{"state", std::string(state)}}).Set(static_cast<double>(jobs));
}

void Metrics::ObserveBatch(const std::string& model, size_t requests, size_t rows, size_t tokens) {
  families_->batch_requests.Add({{"model", model}}, kRows).Observe(static_cast<double>(requests));
  families_->batch_rows.Add({{"model", model}}, kRows).Observe(static_cast<double>(rows));
  families_->batch_tokens.Add({{"model", model}}, kTokens).Observe(static_cast<double>(tokens));
  families_->forward_tokens.Add({{"model", model}}).Increment(static_cast<double>(tokens));
}

void Metrics::AddCapturedBytes(uint64_t bytes) { families_->captured_bytes.Increment(static_cast<double>(bytes)); }

void Metrics::SetModelLoaded(const std::string& model, const std::string& weights_sha256, uint64_t weight_bytes, double load_seconds) {
  families_->model_info.Add({{"model", model}, {"weights_sha256", weights_sha256}}).Set(1);
  families_->model_weight_bytes.Add({{"model", model}}).Set(static_cast<double>(weight_bytes));
  families_->model_load_seconds.Add({{"model", model}}).Set(load_seconds);
}

void Metrics::ForgetModel(const std::string& model, const std::string& weights_sha256) {
  const auto remove = [](Family<Gauge>& family, const prometheus::Labels& labels) {
    if (family.Has(labels)) family.Remove(&family.Add(labels));
  };
  remove(families_->model_info, {{"model", model}, {"weights_sha256", weights_sha256}});
  remove(families_->model_weight_bytes, {{"model", model}});
  remove(families_->model_load_seconds, {{"model", model}});
  for (const char* identity : kIdentities) remove(families_->identity_error, {{"model", model}, {"identity", identity}});
}

void Metrics::SetWeightsMemory(uint64_t held_bytes, uint64_t budget_bytes) {
  families_->weights_bytes.Set(static_cast<double>(held_bytes));
  families_->weights_budget_bytes.Set(static_cast<double>(budget_bytes));
}

void Metrics::SetIdentityError(const std::string& model, const std::string& identity, double relative_error) {
  families_->identity_error.Add({{"model", model}, {"identity", identity}}).Set(relative_error);
}

void Metrics::SetHandles(size_t count, uint64_t bytes) {
  families_->handles.Set(static_cast<double>(count));
  families_->handle_bytes.Set(static_cast<double>(bytes));
}

void Metrics::CountExpiredHandles(size_t count) { families_->expired_handles.Increment(static_cast<double>(count)); }

void Metrics::AddReusedTokens(const std::string& model, uint64_t tokens) {
  families_->reused_tokens.Add({{"model", model}}).Increment(static_cast<double>(tokens));
}

void Metrics::SetPrefixCacheBytes(uint64_t bytes) { families_->prefix_cache_bytes.Set(static_cast<double>(bytes)); }

void Metrics::SetDeviceMemory(const std::string& device, uint64_t allocated_bytes, uint64_t peak_bytes) {
  families_->device_bytes.Add({{"device", device}}).Set(static_cast<double>(allocated_bytes));
  families_->device_peak_bytes.Add({{"device", device}}).Set(static_cast<double>(peak_bytes));
}

}  // namespace fluoroscope::obs
