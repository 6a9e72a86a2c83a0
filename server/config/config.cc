#include "config/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "config/address.h"
#include "fluoroscope/config/v1/config.pb.h"

namespace fluoroscope::config {
namespace {

namespace pb = ::fluoroscope::config::v1;

constexpr uint64_t kMiB = 1024 * 1024;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Keeps the first complaint of the text parser, with its place.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  std::string text;
};

// Bytes the kernel says can be had without swapping; 0 when unknown.
uint64_t MemAvailable() {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("MemAvailable:", 0) == 0) return strtoull(line.c_str() + 13, nullptr, 10) * 1024;
  }
  return 0;
}

absl::Status CheckAddress(const char* field, const std::string& text) {
  if (const auto address = ParseAddress(text); !address.ok()) return Invalid(field, ": ", std::string(address.status().message()));
  return absl::OkStatus();
}

bool GoodName(const std::string& name) {
  if (name.empty() || name.size() > 64) return false;
  for (const char c : name) {
    if (!isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

absl::Status CheckModels(const ServerConfig& config) {
  const std::vector<ModelConfig>& models = config.models;
  if (models.empty() && config.model_store.empty()) {
    return Invalid("models is empty: name at least one, for instance models { name: \"smollm2-135m\" path: \"/path/to/directory\" }");
  }
  std::set<std::string> names;
  for (size_t i = 0; i < models.size(); ++i) {
    const ModelConfig& model = models[i];
    const std::string field = absl::StrCat("models[", i, "].");
    if (!GoodName(model.name)) {
      return Invalid(field, "name is \"", model.name, "\"; it must be 1 to 64 characters from A-Z, a-z, 0-9, '.', '_', '-'");
    }
    if (!names.insert(model.name).second) return Invalid(field, "name is \"", model.name, "\", which an earlier model has already");
    if (model.path.empty())
      return Invalid(field, "path is empty; it must be a Hugging Face directory (config.json, *.safetensors, tokenizer.json)");
    if (!model.dtype.empty() && model.dtype != "f32" && model.dtype != "bf16" && model.dtype != "f16") {
      return Invalid(field, "dtype is \"", model.dtype, "\"; it must be f32, bf16 or f16, or absent for the file's own");
    }
    if (model.load_on_request && !config.allow_loading)
      return Invalid(field, "load_on_request needs allow_loading: true; without it nobody could load the model");
  }
  return absl::OkStatus();
}

absl::Status CheckStore(const ServerConfig& config) {
  if (config.model_store.empty()) return absl::OkStatus();
  if (!config.allow_loading) return Invalid("model_store needs allow_loading: true; without it nobody could load its models");
  std::error_code error;
  if (!std::filesystem::is_directory(config.model_store, error))
    return Invalid("model_store is \"", config.model_store, "\", which is not a directory that can be read");
  return absl::OkStatus();
}

absl::Status CheckDevice(const ServerConfig& config) {
  bool good = config.device == "cpu";
  if (config.device.rfind("cuda:", 0) == 0) {
    const std::string number = config.device.substr(5);
    good = !number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string::npos;
  }
  if (!good) return Invalid("device.name is \"", config.device, "\"; it must be cpu or cuda:N, for instance cuda:0");
  if (config.threads > 4096) return Invalid("device.threads is ", config.threads, "; at most 4096 are allowed");
  return absl::OkStatus();
}

absl::Status CheckLimits(const Limits& limits) {
  // gRPC keeps message sizes in an int.
  if (limits.max_receive_mib > 2047) return Invalid("limits.max_receive_mib is ", limits.max_receive_mib, "; at most 2047 are allowed");
  if (limits.sink_buffer_mib > 1024 * 1024)
    return Invalid("limits.sink_buffer_mib is ", limits.sink_buffer_mib, "; at most 1048576 are allowed");
  return absl::OkStatus();
}

// The limits on handles are parts of the memory budget.
absl::Status FinishHandles(ServerConfig& config) {
  HandlesConfig& handles = config.handles;
  if (handles.total_bytes == 0) handles.total_bytes = config.memory_bytes / 2;
  if (handles.total_bytes > config.memory_bytes)
    return Invalid("handles.total_mib is ", handles.total_bytes / kMiB, "; the memory budget is ", config.memory_bytes / kMiB, " MiB");
  if (handles.principal_bytes == 0) handles.principal_bytes = handles.total_bytes / 2;
  if (handles.principal_bytes > handles.total_bytes)
    return Invalid("handles.principal_mib is ", handles.principal_bytes / kMiB, "; handles.total_mib is ", handles.total_bytes / kMiB);
  return absl::OkStatus();
}

absl::Status FinishGeneration(ServerConfig& config) {
  std::optional<uint64_t>& bytes = config.generation.prefix_cache_bytes;
  if (!bytes) bytes = config.memory_bytes / 8;
  if (*bytes <= config.memory_bytes) return absl::OkStatus();
  return Invalid("generation.prefix_cache_mib is ", *bytes / kMiB, "; the memory budget is ", config.memory_bytes / kMiB, " MiB");
}

// A number of the file, or the default when it is absent (0).
void Take(uint32_t value, uint32_t& field) {
  if (value != 0) field = value;
}

absl::StatusOr<uint64_t> BytesOf(const char* field, uint64_t mib) {
  if (mib > std::numeric_limits<uint64_t>::max() / kMiB) return Invalid(field, " is ", mib, ", which is more bytes than 64 bits can count");
  return mib * kMiB;
}

absl::StatusOr<ServerConfig> FromProto(const pb::ServerConfig& proto) {
  ServerConfig config;
  if (!proto.grpc_address().empty()) config.grpc_address = proto.grpc_address();
  if (!proto.http_address().empty()) config.http_address = proto.http_address();
  for (const pb::Model& model : proto.models())
    config.models.push_back({model.name(), model.path(), model.dtype(), model.load_on_request()});
  if (!proto.device().name().empty()) config.device = proto.device().name();
  config.threads = proto.device().threads();
  FS_ASSIGN_OR_RETURN(config.memory_bytes, BytesOf("device.memory_mib", proto.device().memory_mib()));
  FS_ASSIGN_OR_RETURN(config.weights_bytes, BytesOf("device.weights_mib", proto.device().weights_mib()));
  config.allow_loading = proto.allow_loading();
  config.model_store = proto.model_store();
  Take(proto.limits().max_receive_mib(), config.limits.max_receive_mib);
  Take(proto.limits().max_queue(), config.limits.max_queue);
  Take(proto.limits().max_prompts(), config.limits.max_prompts);
  Take(proto.limits().max_tokens(), config.limits.max_tokens);
  Take(proto.limits().sink_buffer_mib(), config.limits.sink_buffer_mib);
  Take(proto.limits().max_in_flight_per_principal(), config.limits.max_in_flight_per_principal);
  Take(proto.limits().max_running_per_principal(), config.limits.max_running_per_principal);
  FS_ASSIGN_OR_RETURN(config.limits.bytes_per_principal,
                      BytesOf("limits.memory_mib_per_principal", proto.limits().memory_mib_per_principal()));
  Take(proto.limits().upload_idle_seconds(), config.limits.upload_idle_seconds);
  Take(proto.drain_seconds(), config.drain_seconds);
  if (!proto.log_level().empty()) config.log_level = proto.log_level();
  Take(proto.self_check_seconds(), config.self_check_seconds);
  for (const uint64_t mib : {proto.handles().total_mib(), proto.handles().principal_mib()})
    if (mib > std::numeric_limits<uint64_t>::max() / kMiB)
      return Invalid("handles has ", mib, " MiB, which is more bytes than 64 bits can count");
  config.handles.total_bytes = proto.handles().total_mib() * kMiB;
  config.handles.principal_bytes = proto.handles().principal_mib() * kMiB;
  Take(proto.handles().max_ttl_seconds(), config.handles.max_ttl_seconds);
  if (proto.generation().has_prefix_cache_mib()) {
    FS_ASSIGN_OR_RETURN(config.generation.prefix_cache_bytes,
                        BytesOf("generation.prefix_cache_mib", proto.generation().prefix_cache_mib()));
  }
  Take(proto.stuck_seconds(), config.stuck_seconds);
  Take(proto.end_stuck_seconds(), config.end_stuck_seconds);
  config.jobs.directory = proto.jobs().directory();
  Take(proto.jobs().max_per_principal(), config.jobs.max_per_principal);
  Take(proto.jobs().max_mib(), config.jobs.max_mib);
  Take(proto.jobs().keep_hours(), config.jobs.keep_hours);
  return config;
}

absl::StatusOr<ServerConfig> ParseUnchecked(const std::string& textproto) {
  pb::ServerConfig proto;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(textproto, &proto)) return absl::InvalidArgumentError(error.text);
  return FromProto(proto);
}

}  // namespace

absl::Status Finish(ServerConfig& config) {
  FS_RETURN_IF_ERROR(CheckAddress("grpc_address", config.grpc_address));
  FS_RETURN_IF_ERROR(CheckAddress("http_address", config.http_address));
  FS_RETURN_IF_ERROR(CheckModels(config));
  FS_RETURN_IF_ERROR(CheckStore(config));
  FS_RETURN_IF_ERROR(CheckDevice(config));
  FS_RETURN_IF_ERROR(CheckLimits(config.limits));
  if (config.log_level != "debug" && config.log_level != "info" && config.log_level != "warn" && config.log_level != "error") {
    return Invalid("log_level is \"", config.log_level, "\"; it must be debug, info, warn or error");
  }
  if (config.drain_seconds > 3600) return Invalid("drain_seconds is ", config.drain_seconds, "; at most 3600 are allowed");
  if (config.threads == 0) config.threads = std::max(1u, std::thread::hardware_concurrency());
  const uint64_t free_bytes = MemAvailable();
  if (config.memory_bytes == 0) {
    config.memory_bytes = free_bytes / 2;
    if (config.memory_bytes == 0) return Invalid("device.memory_mib is absent and /proc/meminfo does not say what is free; give a number");
  }
  config.weights_are_given = config.weights_bytes != 0;
  if (!config.weights_are_given && free_bytes > config.memory_bytes) config.weights_bytes = free_bytes - config.memory_bytes;
  FS_RETURN_IF_ERROR(FinishHandles(config));
  return FinishGeneration(config);
}

absl::StatusOr<ServerConfig> Parse(const std::string& textproto) {
  FS_ASSIGN_OR_RETURN(ServerConfig config, ParseUnchecked(textproto));
  FS_RETURN_IF_ERROR(Finish(config));
  return config;
}

absl::StatusOr<ServerConfig> ReadFile(const std::string& path) { return Load(path, {}); }

absl::StatusOr<ServerConfig> Load(const std::string& path, const Overrides& overrides) {
  absl::StatusOr<ServerConfig> config = ServerConfig{};
  if (!path.empty()) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    if (!in || !(text << in.rdbuf())) return absl::NotFoundError(absl::StrCat("cannot read the configuration file ", path));
    config = ParseUnchecked(text.str());
  }
  absl::Status status = config.status();
  if (status.ok()) {
    config->models.insert(config->models.end(), overrides.models.begin(), overrides.models.end());
    if (!overrides.grpc_address.empty()) config->grpc_address = overrides.grpc_address;
    if (!overrides.http_address.empty()) config->http_address = overrides.http_address;
    if (!overrides.jobs_directory.empty()) config->jobs.directory = overrides.jobs_directory;
    if (overrides.allow_loading) config->allow_loading = true;
    if (!overrides.model_store.empty()) config->model_store = overrides.model_store;
    status = Finish(*config);
  }
  if (status.ok()) return config;
  if (path.empty()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

}  // namespace fluoroscope::config
