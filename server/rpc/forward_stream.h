// A Forward's or a Generate's results on their way out: the engine's sink on one side, the stream's source on the other.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "api/results.h"
#include "rpc/checksum.h"
#include "rpc/stream.h"

namespace fluoroscope::rpc {

// Queues parts, cuts large tensors into chunks and puts small ones together in packs, all sent from where they lie (no copy), numbers and
// counts them, and tells the engine to pause when the reader is slow. Push and Finish are the engine's side (any thread, never blocking);
// Take and Sent the reactor's, one thread at a time; Stop anybody's.
class ForwardStream final : public api::ForwardSink, public MessageSource {
 public:
  // `pump` gets the stream going again after Take had nothing to give; called from the engine's threads.
  // Above `buffer_bytes` of unsent tensor bytes Push answers false; below half of it the engine is resumed. A tensor is unsent until its
  // last byte has left, because its memory is held until then: estimates of what runs need rely on it.
  ForwardStream(uint64_t buffer_bytes, std::function<void()> pump);
  ~ForwardStream() override;

  bool Push(api::ForwardPart part) override;
  void OnDrain(std::function<void()> resume) override;
  void Finish(absl::Status status) override;
  bool WantsMore() const override;
  bool AllSent() const override;

  Next Take(Call& call) override;
  void Sent() override;
  void Stop() override;

 private:
  void WakeReader();
  // The small tensors at the front of the queue that fit in one message: none when something else is there. Needs mutex_.
  std::vector<api::NamedTensor> TakeSmall();
  grpc::ByteBuffer Encode(const api::ForwardHeader& header) const;
  grpc::ByteBuffer Encode(const api::ForwardSummary& summary, Call& call) const;
  grpc::ByteBuffer Encode(const api::GeneratedToken& token) const;
  grpc::ByteBuffer Encode(const api::Handle& handle) const;
  grpc::ByteBuffer StartTensor(api::NamedTensor tensor);
  grpc::ByteBuffer NextChunk();
  grpc::ByteBuffer Pack(const std::vector<api::NamedTensor>& tensors);

  const uint64_t buffer_bytes_;
  const std::function<void()> pump_;

  // The reactor's side only.
  std::optional<api::Chunk> tensor_;  // being sent
  uint64_t offset_ = 0;               // of its next chunk
  uint32_t tensors_ = 0;
  uint64_t bytes_ = 0;
  uint64_t in_flight_ = 0;  // bytes of the tensors that end in the message taken last
  Checksum checksum_;

  mutable std::mutex mutex_;
  std::deque<api::ForwardPart> parts_;
  std::function<void()> resume_;
  std::optional<absl::Status> end_;
  uint64_t unsent_ = 0;
  bool reader_waits_ = true;     // Take had nothing to give
  bool producer_waits_ = false;  // Push answered false
  bool stopped_ = false;
};

}  // namespace fluoroscope::rpc
