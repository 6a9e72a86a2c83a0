#include "rpc/health.h"

#include <optional>
#include <utility>

namespace fluoroscope::rpc {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

}  // namespace

// One Watch call. Sends the newest status; one that is overtaken before it could be sent is skipped. No lock is held over gRPC's calls.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService& service, std::string name) : service_(service), name_(std::move(name)) {}

  void SetSelf(std::shared_ptr<Watcher> self) { self_ = std::move(self); }

  // Asks under the lock: of two that do this at the same time, the later one to set it has the newer status.
  void Refresh() {
    {
      const std::lock_guard lock(mutex_);
      wanted_ = service_.StatusOf(name_);
    }
    Pump();
  }
  void End(grpc::Status status) {
    {
      const std::lock_guard lock(mutex_);
      if (!end_) end_ = std::move(status);
    }
    Pump();
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      busy_ = false;
      if (!ok && !end_) end_ = grpc::Status::CANCELLED;
    }
    Pump();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    service_.Remove(self_);
    self_.reset();
  }

 private:
  void Pump() {
    std::optional<grpc::Status> end;
    {
      const std::lock_guard lock(mutex_);
      if (busy_) return;
      if (wanted_ && wanted_ != sent_ && (!end_ || end_->error_code() == grpc::StatusCode::UNAVAILABLE)) {
        message_.set_status(*wanted_);  // the last word too, before the server ends the watch
        sent_ = wanted_;
      } else if (end_) {
        end = end_;
      } else {
        return;
      }
      busy_ = true;  // after the end: for ever
    }
    if (end) {
      Finish(*end);
    } else {
      StartWrite(&message_);
    }
  }

  HealthService& service_;
  const std::string name_;
  std::shared_ptr<Watcher> self_;
  HealthCheckResponse message_;

  std::mutex mutex_;
  bool busy_ = false;
  std::optional<Status> wanted_, sent_;
  std::optional<grpc::Status> end_;
};

HealthService::HealthService(std::vector<std::string> services) : services_(services.begin(), services.end()) {}
HealthService::~HealthService() = default;

HealthService::Status HealthService::StatusOf(const std::string& service) {
  const std::lock_guard lock(mutex_);
  bool serving = serving_;
  if (!service.empty() && services_.count(service) == 0) {
    const std::optional<bool> model = models_ ? models_(service) : std::nullopt;
    if (!model) return HealthCheckResponse::SERVICE_UNKNOWN;
    serving = serving && *model;
  }
  return serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void HealthService::SetServing(bool serving) {
  {
    const std::lock_guard lock(mutex_);
    serving_ = serving;
  }
  Refresh();
}

void HealthService::SetModels(ModelState state) {
  const std::lock_guard lock(mutex_);
  models_ = std::move(state);
}

void HealthService::Refresh() {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    watchers = watchers_;
  }
  for (const auto& watcher : watchers) watcher->Refresh();
}

void HealthService::EndWatches() {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    watchers = watchers_;
  }
  for (const auto& watcher : watchers) watcher->End({grpc::StatusCode::UNAVAILABLE, "the server is shutting down"});
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const Status status = StatusOf(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish({grpc::StatusCode::NOT_FOUND, "no such service or model; \"\" stands for the whole server"});
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  auto watcher = std::make_shared<Watcher>(*this, request->service());
  watcher->SetSelf(watcher);
  Add(watcher);
  return watcher.get();
}

void HealthService::Add(const std::shared_ptr<Watcher>& watcher) {
  bool ended;
  {
    const std::lock_guard lock(mutex_);
    watchers_.insert(watcher);
    ended = ended_;
  }
  watcher->Refresh();
  if (ended) watcher->End({grpc::StatusCode::UNAVAILABLE, "the server is shutting down"});
}

void HealthService::Remove(const std::shared_ptr<Watcher>& watcher) {
  const std::lock_guard lock(mutex_);
  watchers_.erase(watcher);
}

}  // namespace fluoroscope::rpc
