// The way out of a run: names and charges what is sent to the sink.
#pragma once

#include <ATen/ATen.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "api/results.h"
#include "run/plan.h"

namespace fluoroscope::run {

// A captured tensor that stays behind.
struct KeptCapture {
  api::NamedTensor tensor;
  uint32_t ttl_seconds = 0;
};

// Makes handles of what a run leaves behind, all or none of it. Used once, on the executor's thread, when the run has succeeded.
class CaptureKeeper {
 public:
  virtual ~CaptureKeeper() = default;
  virtual std::vector<api::Handle> Keep(std::vector<KeptCapture> captures) = 0;
};

// Belongs to one run; used on the executor's thread. Throws nothing but what LibTorch throws.
class ResultWriter {
 public:
  explicit ResultWriter(std::shared_ptr<api::ForwardSink> sink) : sink_(std::move(sink)) {}

  // One part of a capture's result that somebody else has computed.
  void CapturePart(const RowPlan& row, const CapturePlan& capture, std::string part, const at::Tensor& value);
  // The value of one capture, already reduced to its positions and heads, before its reduction.
  void Capture(const RowPlan& row, const CapturePlan& capture, const at::Tensor& value);

  // One tensor about the row's logits at these positions.
  void Logits(const RowPlan& row, const std::string& name, const std::vector<int64_t>& positions, const at::Tensor& value);

  // One tensor that another writer made.
  void Pass(api::NamedTensor tensor);

  void Metric(api::MetricValue value) { metrics_.push_back(std::move(value)); }

  void Push(api::ForwardPart part);

  // What the sink gets before anything else. It waits for the first result, because to hear it wakes threads of the client and the
  // transport, and the cores are busy now; a run without results for some time sends it by itself.
  void Begin(api::ForwardHeader header) { header_ = std::move(header); }
  void SendHeader();

  // From here on results, metrics too, wait in here: until Release sends them, or Forget takes back all that came since.
  void Hold();
  void Release();
  void Forget();

  // False since the sink said "enough for now".
  bool wants_more() const { return wants_more_; }

  // The same, and from here on true again.
  bool TakeWantsMore() { return std::exchange(wants_more_, true); }

  std::vector<api::MetricValue>& metrics() { return metrics_; }
  std::vector<KeptCapture>& kept_captures() { return kept_captures_; }
  uint64_t captured_bytes() const { return captured_bytes_; }
  // Bytes of pushed tensors that the sink has let go, counted just before they are freed; also after the writer's end.
  std::shared_ptr<const std::atomic<uint64_t>> released() const { return released_; }

 private:
  struct Held {
    std::vector<api::ForwardPart> parts;
    size_t metrics_before;
    uint64_t captured_bytes_before;
    size_t kept_captures_before;
  };

  // Fills in the row's part and the bytes.
  static void Fill(const RowPlan& row, api::NamedTensor& tensor, const std::vector<int64_t>& positions, const at::Tensor& value);
  void Send(const RowPlan& row, api::NamedTensor tensor, const std::vector<int64_t>& positions, const at::Tensor& value);

  std::shared_ptr<api::ForwardSink> sink_;
  const std::shared_ptr<std::atomic<uint64_t>> released_ = std::make_shared<std::atomic<uint64_t>>(0);
  std::vector<api::MetricValue> metrics_;
  std::vector<KeptCapture> kept_captures_;
  uint64_t captured_bytes_ = 0;
  bool wants_more_ = true;
  std::optional<Held> held_;
  std::optional<api::ForwardHeader> header_;  // not sent yet
};

}  // namespace fluoroscope::run
