#include "config/config.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::config {
namespace {

constexpr char kModel[] = "models { name: \"tiny\" path: \"/models/tiny\" }\n";

TEST(ConfigTest, OnlyModelsAreNeeded) {
  const auto config = Parse(kModel);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->grpc_address, "127.0.0.1:7070");
  EXPECT_EQ(config->http_address, "127.0.0.1:9464");
  EXPECT_EQ(config->device, "cpu");
  EXPECT_EQ(config->threads, std::thread::hardware_concurrency());
  EXPECT_GT(config->memory_bytes, 64u << 20);
  EXPECT_EQ(config->limits.max_receive_mib, 4u);
  EXPECT_EQ(config->drain_seconds, 10u);
}

TEST(ConfigTest, EveryFieldArrives) {
  const auto config = Parse(R"pb(
    grpc_address: "0.0.0.0:1"
    http_address: "[::1]:2"
    models { name: "a" path: "/a" dtype: "bf16" }
    models { name: "b" path: "/b" }
    device { name: "cuda:1" threads: 3 memory_mib: 5 }
    limits {
      max_receive_mib: 6
      max_queue: 7
      max_prompts: 8
      max_tokens: 9
      sink_buffer_mib: 10
      max_in_flight_per_principal: 11
      max_running_per_principal: 12
      memory_mib_per_principal: 13
      upload_idle_seconds: 14
    }
    drain_seconds: 11
    log_level: "warn"
    self_check_seconds: 12
    stuck_seconds: 13
    end_stuck_seconds: 14
    jobs { directory: "/jobs" max_per_principal: 13 max_mib: 14 keep_hours: 15 }
  )pb");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->grpc_address, "0.0.0.0:1");
  EXPECT_EQ(config->http_address, "[::1]:2");
  ASSERT_EQ(config->models.size(), 2u);
  EXPECT_EQ(config->models[0].path, "/a");
  EXPECT_EQ(config->models[0].dtype, "bf16");
  EXPECT_EQ(config->device, "cuda:1");
  EXPECT_EQ(config->threads, 3u);
  EXPECT_EQ(config->memory_bytes, 5u << 20);
  EXPECT_EQ(config->limits.max_receive_mib, 6u);
  EXPECT_EQ(config->limits.max_queue, 7u);
  EXPECT_EQ(config->limits.max_prompts, 8u);
  EXPECT_EQ(config->limits.max_tokens, 9u);
  EXPECT_EQ(config->limits.sink_buffer_mib, 10u);
  EXPECT_EQ(config->drain_seconds, 11u);
  EXPECT_EQ(config->log_level, "warn");
  EXPECT_EQ(config->self_check_seconds, 12u);
  EXPECT_EQ(config->limits.max_in_flight_per_principal, 11u);
  EXPECT_EQ(config->limits.max_running_per_principal, 12u);
  EXPECT_EQ(config->limits.bytes_per_principal, 13u << 20);
  EXPECT_EQ(config->limits.upload_idle_seconds, 14u);
  EXPECT_EQ(config->stuck_seconds, 13u);
  EXPECT_EQ(config->end_stuck_seconds, 14u);
  EXPECT_EQ(config->jobs.directory, "/jobs");
  EXPECT_EQ(config->jobs.max_per_principal, 13u);
  EXPECT_EQ(config->jobs.max_mib, 14u);
  EXPECT_EQ(config->jobs.keep_hours, 15u);
}

TEST(ConfigTest, AMistakeIsNamedWithItsPlaceOrField) {
  const std::string model = kModel;
  for (const auto& [text, why] : std::vector<std::pair<std::string, const char*>>{
           {"", "models is empty"},
           {model + "gprc_address: \"x\"",
            "line 2, column 13: Message type \"fluoroscope.config.v1.ServerConfig\" has no field named \"gprc_address\""},
           {model + "drain_seconds: \"x\"", "line 2, column 16: Expected integer"},
           {model + "drain_seconds: 3601", "drain_seconds is 3601"},
           {model + "grpc_address: \"nowhere\"", "grpc_address: \"nowhere\" is not an address"},
           {model + "http_address: \"h:99999\"", "http_address: \"h:99999\" is not an address"},
           {model + model, "models[1].name is \"tiny\", which an earlier model has already"},
           {"models { name: \"a b\" path: \"/p\" }", "models[0].name is \"a b\"; it must be 1 to 64 characters"},
           {"models { name: \"" + std::string(65, 'a') + "\" path: \"/p\" }", "1 to 64 characters"},
           {"models { name: \"a\" }", "models[0].path is empty"},
           {"models { name: \"a\" path: \"/p\" dtype: \"int8\" }", "models[0].dtype is \"int8\""},
           {model + "device { name: \"tpu\" }", "device.name is \"tpu\"; it must be cpu or cuda:N"},
           {model + "device { name: \"cuda:\" }", "device.name"},
           {model + "device { threads: 5000 }", "device.threads is 5000"},
           {model + "device { memory_mib: 18446744073709551615 }", "device.memory_mib"},
           {model + "limits { max_receive_mib: 2048 }", "limits.max_receive_mib is 2048; at most 2047"},
           {model + "log_level: \"loud\"", "log_level is \"loud\""},
       }) {
    const auto config = Parse(text);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), testing::HasSubstr(why));
  }
}

TEST(ConfigTest, HandlesHavePartsOfTheBudget) {
  const std::string model = std::string(kModel) + " device { memory_mib: 100 } ";
  const auto defaults = Parse(model);
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->handles.total_bytes, uint64_t{50} << 20);
  EXPECT_EQ(defaults->handles.principal_bytes, uint64_t{25} << 20);
  EXPECT_EQ(defaults->handles.max_ttl_seconds, 86400u);
  const auto given = Parse(model + "handles { total_mib: 8 principal_mib: 8 max_ttl_seconds: 5 }");
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->handles.total_bytes, uint64_t{8} << 20);
  EXPECT_EQ(given->handles.principal_bytes, uint64_t{8} << 20);
  EXPECT_EQ(given->handles.max_ttl_seconds, 5u);
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"handles { total_mib: 101 }", "handles.total_mib is 101; the memory budget is 100"},
           {"handles { principal_mib: 51 }", "handles.principal_mib is 51; handles.total_mib is 50"},
           {"handles { total_mib: 18446744073709551615 }", "64 bits"},
       })
    EXPECT_THAT(std::string(Parse(model + text).status().message()), testing::HasSubstr(why)) << text;
}

TEST(ConfigTest, ThePrefixCacheIsAPartOfTheBudget) {
  const std::string model = std::string(kModel) + " device { memory_mib: 80 } ";
  for (const auto& [text, mib] : std::vector<std::pair<std::string, uint64_t>>{
           {"", 10}, {"generation {}", 10}, {"generation { prefix_cache_mib: 0 }", 0}, {"generation { prefix_cache_mib: 80 }", 80}}) {
    const auto config = Parse(model + text);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->generation.prefix_cache_bytes, mib << 20) << text;
  }
  EXPECT_THAT(std::string(Parse(model + "generation { prefix_cache_mib: 81 }").status().message()),
              testing::HasSubstr("generation.prefix_cache_mib is 81; the memory budget is 80 MiB"));
}

TEST(ConfigTest, LoadingAtRunTimeIsSwitchedOn) {
  const auto defaults = Parse(kModel);
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_FALSE(defaults->allow_loading);
  EXPECT_FALSE(defaults->weights_are_given);
  const std::string store = "model_store: \"" + std::filesystem::temp_directory_path().string() + "\" ";
  const auto alone = Parse("allow_loading: true device { weights_mib: 7 } " + store);  // a store may stand for models
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_TRUE(alone->allow_loading);
  EXPECT_EQ(alone->weights_bytes, 7u << 20);
  EXPECT_TRUE(alone->weights_are_given);
  const auto later = Parse("allow_loading: true models { name: \"a\" path: \"/a\" load_on_request: true }");
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_TRUE(later->models[0].load_on_request);
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {kModel + store, "model_store needs allow_loading: true"},
           {"models { name: \"a\" path: \"/a\" load_on_request: true }", "models[0].load_on_request needs allow_loading: true"},
           {"allow_loading: true model_store: \"/no/such\"", "model_store is \"/no/such\", which is not a directory"},
           {kModel + std::string("device { weights_mib: 18446744073709551615 }"), "device.weights_mib"},
       })
    EXPECT_THAT(std::string(Parse(text).status().message()), testing::HasSubstr(why)) << text;
  EXPECT_TRUE(Load("", {.models = {}, .grpc_address = "", .http_address = "", .allow_loading = true, .model_store = "/"})->allow_loading);
}

TEST(ConfigTest, FilesAreNamedInErrors) {
  EXPECT_EQ(ReadFile("/no/such.textproto").status().code(), absl::StatusCode::kNotFound);
  const auto path = std::filesystem::temp_directory_path() / ("fs_config_" + std::to_string(getpid()));
  std::ofstream(path) << kModel;
  EXPECT_EQ(ReadFile(path.string())->models[0].name, "tiny");
  std::ofstream(path) << "models {";
  EXPECT_THAT(std::string(ReadFile(path.string()).status().message()), testing::StartsWith(path.string() + ": line 1"));
  std::filesystem::remove(path);
}

TEST(ConfigTest, TheCommandLineGoesBeforeTheFile) {
  const Overrides overrides{.models = {{.name = "b", .path = "/b", .dtype = ""}}, .grpc_address = "[::1]:0", .http_address = ""};
  const auto config = Load("", overrides);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models.at(0).path, "/b");
  EXPECT_EQ(config->grpc_address, "[::1]:0");
  EXPECT_EQ(config->http_address, "127.0.0.1:9464");
  EXPECT_THAT(std::string(Load("", {}).status().message()), testing::StartsWith("models is empty"));

  const auto path = std::filesystem::temp_directory_path() / ("fs_overrides_" + std::to_string(getpid()));
  std::ofstream(path) << "drain_seconds: 3";  // models may come from the command line alone
  EXPECT_EQ(Load(path.string(), overrides)->drain_seconds, 3u);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace fluoroscope::config
