// grpc.health.v1, the standard health service.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include <mutex>

#include "grpc/health/v1/health.grpc.pb.h"

namespace fluoroscope::rpc {

// Answers for "" (the server as a whole) and for the named services, which are all serving or all not. (gRPC's own default health service
// is not used: it says SERVING for "" from the first moment.) All methods are safe from any thread.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  explicit HealthService(std::vector<std::string> services);
  ~HealthService() override;

  // Tells all watchers. Not serving at first.
  void SetServing(bool serving);

  // Ends all watches, and new ones at once; before the server shuts down.
  void EndWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(grpc::CallbackServerContext* context,
                                                                         const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;
  class Watcher;

  Status StatusOf(bool known) const;  // with mutex_ held
  bool Known(const std::string& service) const;
  void Add(const std::shared_ptr<Watcher>& watcher);
  void Remove(const std::shared_ptr<Watcher>& watcher);

  const std::set<std::string> services_;
  std::mutex mutex_;
  bool serving_ = false;
  bool ended_ = false;
  std::set<std::shared_ptr<Watcher>> watchers_;
};

}  // namespace fluoroscope::rpc
