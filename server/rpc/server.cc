#include "rpc/server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/handles_service.h"
#include "rpc/health.h"
#include "rpc/jobs_service.h"
#include "rpc/services.h"
#include "rpc/status_service.h"
#include "spdlog/spdlog.h"

namespace fluoroscope::rpc {
namespace {

constexpr int kMaxStreamsPerConnection = 1024;

// Protobuf complains about malformed requests on standard error; the caller has been told, and the log is no place for callers' mistakes.
void ProtobufLog(google::protobuf::LogLevel level, const char*, int, const std::string& message) {
  if (level >= google::protobuf::LOGLEVEL_FATAL) {
    spdlog::critical("protobuf: {}", message);
  } else {
    spdlog::debug("protobuf: {}", message);
  }
}

void SetChannelOptions(grpc::ServerBuilder& builder) {
  // With SO_REUSEPORT a second server on the same port would start happily and take half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  // Notices clients whose machine vanished; lets clients ping every 10 s, so that long runs survive middle boxes.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 9 * 1000);
}

}  // namespace

class Server::Impl {
 public:
  Impl(const config::ServerConfig& config, obs::Metrics& metrics)
      : state_(config.limits, metrics),
        models_(state_),
        inference_(state_),
        patching_(state_),
        attribution_(state_),
        handles_(state_),
        status_(state_),
        jobs_(state_),
        health_({fluoroscope::v1::Models::service_full_name(), fluoroscope::v1::Inference::service_full_name(),
                 fluoroscope::v1::Patching::service_full_name(), fluoroscope::v1::Attribution::service_full_name(),
                 fluoroscope::v1::Handles::service_full_name(), fluoroscope::v1::Server::service_full_name(),
                 fluoroscope::v1::Jobs::service_full_name()}) {}

  ~Impl() { Shutdown(std::chrono::milliseconds(0)); }

  absl::Status Start(const config::ServerConfig& config) {
    static std::once_flag once;
    std::call_once(once, [] {
      google::protobuf::SetLogHandler(ProtobufLog);
      grpc::EnableDefaultHealthCheckService(false);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    });
    grpc::ServerBuilder builder;
    builder.AddListeningPort(config.grpc_address, grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(static_cast<int>(config.limits.max_receive_mib) * 1024 * 1024);
    SetChannelOptions(builder);
    builder.RegisterService(&models_);
    builder.RegisterService(&inference_);
    builder.RegisterService(&patching_);
    builder.RegisterService(&attribution_);
    builder.RegisterService(&handles_);
    builder.RegisterService(&status_);
    builder.RegisterService(&jobs_);
    builder.RegisterService(&health_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ", config.grpc_address,
                                                 ": the address is not of this machine, or the port is taken or privileged"));
    }
    return absl::OkStatus();
  }

  void Serve(engine::Engine& engine) {
    state_.engine.store(&engine, std::memory_order_release);
    health_.SetModels([&engine](const std::string& name) { return engine.models().Serving(name); });
    engine.models().OnChange([this] { health_.Refresh(); });
    health_.SetServing(true);
  }

  void StopServing() { health_.SetServing(false); }

  void Shutdown(std::chrono::milliseconds grace) {
    if (server_ == nullptr) return;
    health_.SetServing(false);
    health_.EndWatches();
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
    server_.reset();
    health_.SetModels(nullptr);  // nobody asks any more, and the engine may go
  }

  int port() const { return port_; }

 private:
  ServerState state_;
  ModelsService models_;
  InferenceService inference_;
  PatchingService patching_;
  AttributionService attribution_;
  HandlesService handles_;
  StatusService status_;
  JobsService jobs_;
  HealthService health_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;  // last: gone before the services
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const config::ServerConfig& config, obs::Metrics& metrics) {
  auto impl = std::make_unique<Impl>(config, metrics);
  if (absl::Status status = impl->Start(config); !status.ok()) return status;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

int Server::port() const { return impl_->port(); }
void Server::Serve(engine::Engine& engine) { impl_->Serve(engine); }
void Server::StopServing() { impl_->StopServing(); }
void Server::Shutdown(std::chrono::milliseconds grace) { impl_->Shutdown(grace); }

}  // namespace fluoroscope::rpc
