// A job's results on their way to one of its watchers.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/jobs.h"
#include "rpc/stream.h"

namespace fluoroscope::rpc {

// Holds one page of messages, which are bytes already; asks for the next when it is sent. OnMessages and OnEnd are the jobs thread's; Take
// and Sent the reactor's, one thread at a time; Stop anybody's.
class JobStream final : public jobs::JobWatcher, public MessageSource {
 public:
  // `pump` gets the stream going again after Take had nothing to give.
  explicit JobStream(std::function<void()> pump) : pump_(std::move(pump)) {}

  void OnMessages(std::vector<std::string> messages, std::function<void()> more) override;
  void OnEnd(absl::Status status) override;

  Next Take(Call& call) override;
  void Sent() override {}
  void Stop() override;

 private:
  const std::function<void()> pump_;
  std::mutex mutex_;
  std::deque<std::string> messages_;
  std::function<void()> more_;  // set while it has not been called for the page at hand
  std::optional<absl::Status> end_;
  bool stopped_ = false;
};

}  // namespace fluoroscope::rpc
