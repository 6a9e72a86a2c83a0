// The server's configuration as plain, checked values. See proto/fluoroscope/config/v1/config.proto for the meaning of the fields.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fluoroscope::config {

struct ModelConfig {
  std::string name;
  std::string path;
  std::string dtype;  // "", "f32", "bf16", "f16"
  bool load_on_request = false;
};

struct Limits {
  uint32_t max_receive_mib = 4;
  uint32_t max_queue = 256;
  uint32_t max_prompts = 1024;
  uint32_t max_tokens = 262144;
  uint32_t sink_buffer_mib = 64;
  uint32_t max_in_flight_per_principal = 256;
  uint32_t max_running_per_principal = 64;
  uint64_t bytes_per_principal = 0;  // 0: the whole budget
  uint32_t upload_idle_seconds = 120;
};

struct JobsConfig {
  std::string directory;  // empty: no jobs
  uint32_t max_per_principal = 64;
  uint32_t max_mib = 256;
  uint32_t keep_hours = 168;
};

struct HandlesConfig {
  uint64_t total_bytes = 0;      // resolved by Parse: never 0
  uint64_t principal_bytes = 0;  // resolved by Parse: never 0
  uint32_t max_ttl_seconds = 86400;
};

struct GenerationConfig {
  std::optional<uint64_t> prefix_cache_bytes;  // resolved by Parse: never absent; 0: none
};

struct ServerConfig {
  std::string grpc_address = "127.0.0.1:7070";
  std::string http_address = "127.0.0.1:9464";
  std::vector<ModelConfig> models;
  std::string device = "cpu";
  uint32_t threads = 0;            // resolved by Parse: never 0
  uint64_t memory_bytes = 0;       // resolved by Parse: never 0
  uint64_t weights_bytes = 0;      // resolved by Parse
  bool weights_are_given = false;  // and not what was free
  Limits limits;
  uint32_t drain_seconds = 10;
  std::string log_level = "info";
  uint32_t self_check_seconds = 60;
  uint32_t stuck_seconds = 60;
  uint32_t end_stuck_seconds = 30;
  JobsConfig jobs;
  HandlesConfig handles;
  GenerationConfig generation;
  bool allow_loading = false;
  std::string model_store;  // empty: none
};

// Parses a textproto and checks every field. INVALID_ARGUMENT names the field (or line and column), what was wrong and what is allowed.
absl::StatusOr<ServerConfig> Parse(const std::string& textproto);

// Parse() of a file's text. NOT_FOUND or INVALID_ARGUMENT, naming the file.
absl::StatusOr<ServerConfig> ReadFile(const std::string& path);

// What the command line says; it goes before the file.
struct Overrides {
  std::vector<ModelConfig> models;  // added to the file's
  std::string grpc_address;
  std::string http_address;
  std::string jobs_directory = "";
  bool allow_loading = false;  // or the file's
  std::string model_store = "";
};

// The file (or, when `path` is empty, the defaults) with the command line's word on top, checked.
absl::StatusOr<ServerConfig> Load(const std::string& path, const Overrides& overrides);

// Checks a configuration that was put together from flags, and fills in what depends on the machine.
absl::Status Finish(ServerConfig& config);

}  // namespace fluoroscope::config
