// grpc.health.v1, the standard health service.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <mutex>

#include "grpc/health/v1/health.grpc.pb.h"

namespace fluoroscope::rpc {

// Answers for "" (the server as a whole), for the named services, which are all serving or all not, and for each model by its name, which
// is serving while it is loaded. (gRPC's own default health service is not used: it says SERVING for "" from the first moment.) All methods
// are safe from any thread.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  explicit HealthService(std::vector<std::string> services);
  ~HealthService() override;

  // Tells all watchers. Not serving at first.
  void SetServing(bool serving);

  // How to learn whether a model can be used; nullopt: there is none of that name. Asked from any thread, with locks held.
  using ModelState = std::function<std::optional<bool>(const std::string& name)>;
  void SetModels(ModelState state);
  // Its answers may have changed: tells all watchers.
  void Refresh();

  // Ends all watches, and new ones at once; before the server shuts down.
  void EndWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(grpc::CallbackServerContext* context,
                                                                         const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;
  class Watcher;

  Status StatusOf(const std::string& service);
  void Add(const std::shared_ptr<Watcher>& watcher);
  void Remove(const std::shared_ptr<Watcher>& watcher);

  const std::set<std::string> services_;
  std::mutex mutex_;
  ModelState models_;
  bool serving_ = false;
  bool ended_ = false;
  std::set<std::shared_ptr<Watcher>> watchers_;
};

}  // namespace fluoroscope::rpc
