// The plain HTTP side door for operators: /metrics, /healthz, /readyz.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "obs/metrics.h"

namespace fluoroscope::obs {

// Owns a listening socket, its thread and a small pool of workers. (Not prometheus::Exposer: its threads' stacks are too small for a
// process that has loaded LibTorch's CUDA back end, and it aborts.)
//   /metrics  the text exposition
//   /healthz  200 while `healthy()`, else 503: restart me
//   /readyz   200 while `ready()`, else 503: send me no traffic
class HttpEndpoint {
 public:
  struct Options {
    std::string host;               // a name or address, IPv6 without brackets
    int port = 0;                   // 0 picks a free one
    std::function<bool()> healthy;  // called from the workers; must be thread-safe and quick
    std::function<bool()> ready;
  };

  // Listens and serves when it returns. UNAVAILABLE when the address cannot be bound. `metrics` must outlive the endpoint.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(Options options, const Metrics& metrics);

  ~HttpEndpoint();  // stops listening, waits for answers in progress
  HttpEndpoint(const HttpEndpoint&) = delete;
  HttpEndpoint& operator=(const HttpEndpoint&) = delete;

  int port() const;

 private:
  class Impl;
  explicit HttpEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fluoroscope::obs
