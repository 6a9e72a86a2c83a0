// The gRPC server: all services on one port.
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "config/config.h"
#include "engine/engine.h"
#include "obs/metrics.h"

namespace fluoroscope::rpc {

// Life: Start (answers health checks with NOT_SERVING and other calls with UNAVAILABLE) -> Serve -> StopServing -> Shutdown. Called by
// main, from one thread.
class Server {
 public:
  // Listens when it returns. UNAVAILABLE when the address cannot be bound. `metrics` must outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const config::ServerConfig& config, obs::Metrics& metrics);

  ~Server();  // Shutdown without grace, if that has not been done
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;

  // From now on calls go to `engine`, which must outlive Shutdown, and the health service says SERVING.
  void Serve(engine::Engine& engine);

  // The health service says NOT_SERVING; calls still go to the engine, which refuses new ones once it drains.
  void StopServing();

  // Waits up to `grace` for open calls, then cancels them. After it returns no reactor is left.
  void Shutdown(std::chrono::milliseconds grace);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fluoroscope::rpc
