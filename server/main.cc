// The server process: flags, signals, wiring.
//   start  config -> HTTP side door (alive, not ready) -> gRPC (NOT_SERVING) -> models loaded and checked -> SERVING, ready, port file
//   stop   SIGTERM or SIGINT: NOT_SERVING -> running work ends or is cancelled within the grace time -> gRPC closes -> HTTP last -> exit 0
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/watchdog.h"
#include "config/address.h"
#include "config/config.h"
#include "engine/engine.h"
#include "obs/http_endpoint.h"
#include "obs/logging.h"
#include "obs/metrics.h"
#include "obs/version.h"
#include "rpc/grid_codec.h"
#include "rpc/server.h"
#include "spdlog/spdlog.h"

ABSL_FLAG(std::string, config, "", "Configuration file (textproto of fluoroscope.config.v1.ServerConfig).");
ABSL_FLAG(
    std::vector<std::string>, model, {},
    "Models to serve, as NAME=DIRECTORY, several with commas; added to those of --config. A directory holds config.json, *.safetensors "
    "and tokenizer.json.");
ABSL_FLAG(std::string, grpc_address, "", "Where to listen for gRPC, host:port; port 0 takes a free one. Default 127.0.0.1:7070.");
ABSL_FLAG(std::string, http_address, "", "Where to serve /metrics, /healthz and /readyz, host:port. Default 127.0.0.1:9464.");
ABSL_FLAG(std::string, jobs_directory, "", "Where jobs and their results are kept; without it there are none.");
ABSL_FLAG(bool, allow_loading, false, "Lets clients load and unload models while the server runs.");
ABSL_FLAG(std::string, model_store, "", "A directory whose subdirectories clients may load as models; needs --allow_loading.");
ABSL_FLAG(std::string, port_file, "", "Written when the server is ready: lines grpc=PORT and http=PORT.");

namespace fluoroscope {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// libgomp's threads spin while they wait, which is deadly beside other busy processes: thirty small layers take 1.3 s instead of 50 ms.
// Never to spin costs a wake-up at every product, a third of a short forward. Six thousand turns bridge the gap between two products and no
// more. libgomp reads the variable when it is loaded, before main: so set it and start again.
void LimitOpenMpSpinning(char** argv) {
  if (getenv("OMP_WAIT_POLICY") != nullptr || getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "6000", 1);
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(self.c_str(), argv);
  std::fprintf(stderr, "cannot start again with GOMP_SPINCOUNT=6000; going on without: other busy processes will slow this server down\n");
}

void SetFlagTexts() {
  absl::SetProgramUsageMessage(
      "serves transformer language models and their internals over gRPC.\n\n"
      "  fluoroscope-server --config fluoroscope.textproto\n"
      "  fluoroscope-server --model smollm2-135m=/path/to/directory");
  absl::FlagsUsageConfig usage;
  const auto ours = [](absl::string_view file) { return file.find("main.cc") != absl::string_view::npos; };
  usage.contains_help_flags = usage.contains_helpshort_flags = usage.contains_helppackage_flags = ours;
  usage.version_string = [] { return absl::StrCat("fluoroscope-server ", std::string(obs::Version()), "\n"); };
  absl::SetFlagsUsageConfig(usage);
}

absl::StatusOr<config::ServerConfig> ConfigFromFlags() {
  config::Overrides overrides{.models = {},
                              .grpc_address = absl::GetFlag(FLAGS_grpc_address),
                              .http_address = absl::GetFlag(FLAGS_http_address),
                              .jobs_directory = absl::GetFlag(FLAGS_jobs_directory),
                              .allow_loading = absl::GetFlag(FLAGS_allow_loading),
                              .model_store = absl::GetFlag(FLAGS_model_store)};
  for (const std::string& model : absl::GetFlag(FLAGS_model)) {
    const size_t equals = model.find('=');
    if (equals == std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat("--model is \"", model, "\"; it must be NAME=DIRECTORY"));
    overrides.models.push_back({.name = model.substr(0, equals), .path = model.substr(equals + 1), .dtype = ""});
  }
  return config::Load(absl::GetFlag(FLAGS_config), overrides);
}

// Readers see the whole file or none.
absl::Status WritePortFile(const std::string& path, int grpc_port, int http_port) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream(temporary) << "grpc=" << grpc_port << "\nhttp=" << http_port << "\n" << std::flush;
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot write --port_file ", path, ": ", error.message()));
  return absl::OkStatus();
}

// Owns the thread that waits for SIGTERM and SIGINT. Made before any other thread, so that all of them inherit the blocked signals.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    std::thread([this] { Loop(); }).detach();  // waits for the second signal until the process ends
  }

  // Until then a signal ends the process at once: there is nothing to finish.
  void StartDraining() { drains_ = true; }

  // True when it is time to stop.
  bool WaitFor(milliseconds time) {
    std::unique_lock lock(mutex_);
    return wake_.wait_for(lock, time, [this] { return stop_; });
  }

 private:
  void Loop() {
    int signal = 0;
    sigwait(&set_, &signal);
    spdlog::info("signal {}: stopping; a second one ends the process at once", signal);
    if (!drains_) {
      obs::ShutDownLogging();
      std::_Exit(0);
    }
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    sigwait(&set_, &signal);
    std::_Exit(128 + signal);
  }

  sigset_t set_;
  std::atomic<bool> drains_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
};

// What the HTTP side door answers with.
struct Condition {
  std::atomic<bool> healthy{true};
  std::atomic<bool> ready{false};
};

absl::StatusOr<std::unique_ptr<obs::HttpEndpoint>> StartHttp(const config::ServerConfig& config, const Condition& condition,
                                                             const obs::Metrics& metrics) {
  FS_ASSIGN_OR_RETURN(const config::Address address, config::ParseAddress(config.http_address));
  return obs::HttpEndpoint::Start({.host = address.host,
                                   .port = address.port,
                                   .healthy = [&condition] { return condition.healthy.load(); },
                                   .ready = [&condition] { return condition.ready.load(); }},
                                  metrics);
}

absl::Status Run(const config::ServerConfig& config, Signals& signals) {
  obs::Metrics metrics;
  Condition condition;
  FS_ASSIGN_OR_RETURN(const std::unique_ptr<obs::HttpEndpoint> http, StartHttp(config, condition, metrics));
  FS_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server, rpc::Server::Start(config, metrics));
  spdlog::info("fluoroscope-server {} listens: gRPC {} (port {}), HTTP {} (port {}); loading {} model(s)", obs::Version(),
               config.grpc_address, server->port(), config.http_address, http->port(), config.models.size());

  FS_ASSIGN_OR_RETURN(std::unique_ptr<engine::Engine> engine, engine::Engine::Create(config, metrics, rpc::MakeGridCodec(config.limits)));
  signals.StartDraining();
  server->Serve(*engine);
  condition.ready = true;
  FS_RETURN_IF_ERROR(WritePortFile(absl::GetFlag(FLAGS_port_file), server->port(), http->port()));
  spdlog::info("serving");

  Watchdog watchdog{seconds(config.end_stuck_seconds)};
  while (!signals.WaitFor(seconds(1))) {
    const Watchdog::State state = watchdog.Look(engine->Healthy());
    if (state == Watchdog::State::kEnd) {
      spdlog::critical("the device's executor is still stuck; ending the process, so that a supervisor can start it again");
      obs::ShutDownLogging();
      std::abort();  // what is stuck cannot be waited for, and a core dump says where it is
    }
    const bool healthy = state == Watchdog::State::kFine;
    if (healthy == condition.healthy) continue;
    condition.healthy = condition.ready = healthy;
    metrics.SetExecutorStuck(!healthy);
    if (healthy) {
      spdlog::warn("the device's executor goes on");
      server->Serve(*engine);
    } else {
      spdlog::critical(
          "the device's executor is stuck, or the device is lost: one step has taken more than {} s; ending in {} s unless it goes on",
          config.stuck_seconds, config.end_stuck_seconds);
      server->StopServing();
    }
  }

  condition.ready = false;
  server->StopServing();
  engine->Drain(seconds(config.drain_seconds));
  server->Shutdown(seconds(2));  // what the engine has finished still goes out to readers that read
  engine.reset();
  spdlog::info("stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  LimitOpenMpSpinning(argv);
  SetFlagTexts();
  if (const auto rest = absl::ParseCommandLine(argc, argv); rest.size() > 1) {
    std::fprintf(stderr, "fluoroscope-server: \"%s\" is not a flag; see --help\n", rest[1]);
    return 2;
  }
  const absl::StatusOr<config::ServerConfig> config = ConfigFromFlags();
  if (!config.ok()) {
    std::fprintf(stderr, "fluoroscope-server: %s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  static Signals signals;  // its thread lives as long as the process
  if (const absl::Status status = obs::SetUpLogging(config->log_level); !status.ok()) return 2;
  absl::Status status;
  try {
    status = Run(*config, signals);
  } catch (const std::exception& error) {
    status = absl::InternalError(error.what());
  }
  if (!status.ok()) spdlog::critical("{}", std::string(status.message()));
  obs::ShutDownLogging();
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace fluoroscope

int main(int argc, char** argv) { return fluoroscope::Main(argc, argv); }
