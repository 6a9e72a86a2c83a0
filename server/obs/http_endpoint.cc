#include "obs/http_endpoint.h"

#include <httplib.h>
#include <sys/socket.h>

#include <chrono>
#include <semaphore>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fluoroscope::obs {
namespace {

constexpr size_t kWorkers = 4;
constexpr ptrdiff_t kMaxConnections = 64;  // beyond it the accept loop waits and the kernel's backlog takes over

// httplib's pool with a bound on what is queued.
class BoundedPool : public httplib::ThreadPool {
 public:
  BoundedPool() : ThreadPool(kWorkers) {}
  void enqueue(std::function<void()> job) override {
    slots_.acquire();
    ThreadPool::enqueue([this, job = std::move(job)] {
      job();
      slots_.release();
    });
  }

 private:
  std::counting_semaphore<kMaxConnections> slots_{kMaxConnections};
};

// httplib's default adds SO_REUSEPORT, with which a second server on the same port starts happily and takes half of the requests.
void SocketOptions(int socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

void Answer(httplib::Response& response, bool good, const char* yes, const char* no) {
  response.status = good ? 200 : 503;
  response.set_content(good ? yes : no, "text/plain; charset=utf-8");
}

}  // namespace

class HttpEndpoint::Impl {
 public:
  Impl(Options options, const Metrics& metrics) : options_(std::move(options)) {
    server_.set_socket_options(SocketOptions);
    server_.new_task_queue = [] { return new BoundedPool; };
    server_.set_keep_alive_max_count(1);  // an idle scraper must not hold one of the few workers
    server_.set_keep_alive_timeout(2);    // also: how long a new connection may stay silent
    server_.set_read_timeout(std::chrono::seconds(2));
    server_.set_write_timeout(std::chrono::seconds(5));
    server_.set_payload_max_length(4096);
    server_.Get("/metrics", [&metrics](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics.Serialize(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      Answer(response, options_.healthy(), "ok\n", "unhealthy\n");
    });
    server_.Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
      Answer(response, options_.ready(), "ready\n", "not ready\n");
    });
  }

  ~Impl() {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
  }

  absl::Status Start() {
    port_ = options_.port;
    const bool bound = port_ == 0 ? (port_ = server_.bind_to_any_port(options_.host)) > 0 : server_.bind_to_port(options_.host, port_);
    if (!bound) {
      return absl::UnavailableError(absl::StrCat("cannot listen for HTTP on ", options_.host, " port ", options_.port,
                                                 ": the address is not of this machine, or the port is taken or privileged"));
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    // stop() before the loop runs would be lost, and the destructor would then wait for ever.
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return absl::OkStatus();
  }

  int port() const { return port_; }

 private:
  const Options options_;
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
};

HttpEndpoint::HttpEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpEndpoint::~HttpEndpoint() = default;
int HttpEndpoint::port() const { return impl_->port(); }

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(Options options, const Metrics& metrics) {
  auto impl = std::make_unique<Impl>(std::move(options), metrics);
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::unique_ptr<HttpEndpoint>(new HttpEndpoint(std::move(impl)));
}

}  // namespace fluoroscope::obs
