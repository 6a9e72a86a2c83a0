// A Sweep's results on their way out: the engine's sink on one side, the stream's source on the other.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <optional>

#include "api/sweep.h"
#include "rpc/stream.h"

namespace fluoroscope::rpc {

// Queues parts and encodes them one by one. A sweep's results are a few numbers a cell and the cells of a request are limited, so nothing
// is held back from a slow reader. Push and Finish are the engine's side (any thread, never blocking); Take and Sent the reactor's, one
// thread at a time; Stop anybody's.
class SweepStream final : public api::SweepSink, public MessageSource {
 public:
  // `pump` gets the stream going again after Take had nothing to give; called from the engine's threads.
  explicit SweepStream(std::function<void()> pump) : pump_(std::move(pump)) {}

  bool Push(api::SweepPart part) override;
  void OnDrain(std::function<void()> resume) override;
  void Finish(absl::Status status) override;

  Next Take(Call& call) override;
  void Sent() override {}
  void Stop() override;

 private:
  void WakeReader();

  const std::function<void()> pump_;
  std::mutex mutex_;
  std::deque<api::SweepPart> parts_;
  std::optional<absl::Status> end_;
  bool reader_waits_ = true;  // Take had nothing to give
  bool stopped_ = false;
};

}  // namespace fluoroscope::rpc
