#include "rpc/forward_stream.h"

#include <algorithm>
#include <utility>

#include "fluoroscope/v1/inference.pb.h"
#include "rpc/codec_forward.h"
#include "rpc/codec_generate.h"
#include "rpc/codec_handles.h"
#include "rpc/codec_tensor.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

// A message of 2 MiB with its framing: the fastest size over gRPC, and well below clients' default limit of 4 MiB. A multiple of every
// element size, so that no number is cut in two.
constexpr uint64_t kChunkBytes = 2 * 1024 * 1024 - 64;

// Smaller tensors share messages: one of its own costs more than its bytes do. The limits keep a pack below kChunkBytes, headers included.
constexpr uint64_t kSmallBytes = 1024 * 1024;
constexpr size_t kMaxPacked = 256;

uint64_t TensorBytes(const api::ForwardPart& part) {
  const auto* tensor = std::get_if<api::NamedTensor>(&part);
  return tensor == nullptr ? 0 : tensor->data.bytes.size();
}

void ReleaseOwner(void* owner) { delete static_cast<std::shared_ptr<const void>*>(owner); }

// A slice that points into the tensor and keeps it alive.
grpc::Slice Borrow(const api::Chunk& tensor, uint64_t offset, uint64_t size) {
  // gRPC never writes to a slice that it is given to send.
  void* data = const_cast<std::byte*>(tensor.bytes.data() + offset);
  return grpc::Slice(data, size, ReleaseOwner, new std::shared_ptr<const void>(tensor.owner));
}

}  // namespace

ForwardStream::ForwardStream(uint64_t buffer_bytes, std::function<void()> pump) : buffer_bytes_(buffer_bytes), pump_(std::move(pump)) {}

ForwardStream::~ForwardStream() = default;

bool ForwardStream::Push(api::ForwardPart part) {
  bool wants_more = true;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || end_) return true;
    unsent_ += TensorBytes(part);
    parts_.push_back(std::move(part));
    if (unsent_ > buffer_bytes_) {
      producer_waits_ = true;
      wants_more = false;
    }
  }
  WakeReader();
  return wants_more;
}

void ForwardStream::OnDrain(std::function<void()> resume) {
  const std::lock_guard lock(mutex_);
  resume_ = std::move(resume);
}

void ForwardStream::Finish(absl::Status status) {
  std::function<void()> resume;
  {
    const std::lock_guard lock(mutex_);
    if (end_) return;
    if (!status.ok()) {  // half a result is none
      parts_.clear();
      unsent_ = 0;
    }
    end_ = std::move(status);
    producer_waits_ = false;             // the run stays charged until nothing is unsent
    if (unsent_ == 0) resume = resume_;  // all was sent before the end was known
  }
  WakeReader();
  if (resume) resume();
}

bool ForwardStream::WantsMore() const {
  const std::lock_guard lock(mutex_);
  return !producer_waits_;
}

bool ForwardStream::AllSent() const {
  const std::lock_guard lock(mutex_);
  return unsent_ == 0;
}

void ForwardStream::WakeReader() {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(reader_waits_, false)) return;
  }
  pump_();
}

MessageSource::Next ForwardStream::Take(Call& call) {
  in_flight_ = 0;
  api::ForwardPart part;
  std::vector<api::NamedTensor> small;
  std::optional<absl::Status> end;  // when this message is the last
  {
    const std::lock_guard lock(mutex_);
    const bool failed = end_ && !end_->ok();
    if (stopped_) return {.message = {}, .end = absl::CancelledError("the reader is gone")};
    if (failed) return {.message = {}, .end = *end_};
    if (!tensor_) {
      if (parts_.empty() && end_) return {.message = {}, .end = *end_};
      if (parts_.empty()) {
        reader_waits_ = true;
        return {};
      }
      small = TakeSmall();
      if (small.empty()) {
        part = std::move(parts_.front());
        parts_.pop_front();
        if (parts_.empty() && std::holds_alternative<api::ForwardSummary>(part)) end = end_;
      }
    }
  }
  if (tensor_) return {.message = NextChunk(), .end = {}};
  if (!small.empty()) return {.message = Pack(small), .end = {}};
  if (auto* header = std::get_if<api::ForwardHeader>(&part)) return {.message = Encode(*header), .end = {}};
  if (auto* tensor = std::get_if<api::NamedTensor>(&part)) return {.message = StartTensor(std::move(*tensor)), .end = {}};
  if (auto* token = std::get_if<api::GeneratedToken>(&part)) return {.message = Encode(*token), .end = {}};
  if (auto* handle = std::get_if<api::Handle>(&part)) return {.message = Encode(*handle), .end = {}};
  return {.message = Encode(std::get<api::ForwardSummary>(part), call), .end = std::move(end)};
}

std::vector<api::NamedTensor> ForwardStream::TakeSmall() {
  std::vector<api::NamedTensor> small;
  uint64_t total = 0;
  while (!parts_.empty() && small.size() < kMaxPacked) {
    auto* tensor = std::get_if<api::NamedTensor>(&parts_.front());
    if (tensor == nullptr) break;
    const uint64_t size = tensor->data.bytes.size() + HeaderSizeBound(*tensor);
    if (size >= kSmallBytes || total + size > kChunkBytes) break;
    total += size;
    small.push_back(std::move(*tensor));
    parts_.pop_front();
  }
  return small;
}

void ForwardStream::Sent() {
  std::function<void()> resume;
  {
    const std::lock_guard lock(mutex_);
    unsent_ -= std::min(unsent_, in_flight_);
    if (producer_waits_ && unsent_ < buffer_bytes_ / 2) {
      producer_waits_ = false;
      resume = resume_;
    }
    if (end_ && unsent_ == 0) resume = resume_;
  }
  if (resume) resume();
}

void ForwardStream::Stop() {
  std::deque<api::ForwardPart> dropped;  // freed outside the lock: it may be a lot
  std::function<void()> resume;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(parts_);
    unsent_ = 0;
    producer_waits_ = false;
    resume = resume_;  // so that it sees that it was cancelled, or that nothing is unsent any more
  }
  if (resume) resume();
}

grpc::ByteBuffer ForwardStream::Encode(const api::ForwardHeader& header) const {
  pb::ForwardReply reply;
  EncodeForwardHeader(header, reply.mutable_header());
  return ToByteBuffer(reply);
}

grpc::ByteBuffer ForwardStream::Encode(const api::ForwardSummary& summary, Call& call) const {
  pb::ForwardReply reply;
  pb::ForwardSummary* out = reply.mutable_summary();
  EncodeForwardSummary(summary, out);
  out->set_tensor_count(tensors_);
  out->set_byte_count(bytes_);
  out->set_checksum(checksum_.Value());
  call.SetTimes(summary.queue_ms, summary.run_ms);
  return ToByteBuffer(reply);
}

grpc::ByteBuffer ForwardStream::Encode(const api::GeneratedToken& token) const {
  pb::GenerateReply reply;
  EncodeToken(token, reply.mutable_token());
  return ToByteBuffer(reply);
}

grpc::ByteBuffer ForwardStream::Encode(const api::Handle& handle) const {
  pb::ForwardReply reply;
  EncodeHandle(handle, reply.mutable_handle());
  return ToByteBuffer(reply);
}

grpc::ByteBuffer ForwardStream::StartTensor(api::NamedTensor tensor) {
  pb::ForwardReply reply;
  EncodeTensorHeader(tensor, tensors_++, reply.mutable_tensor());
  bytes_ += tensor.data.bytes.size();
  offset_ = 0;
  if (!tensor.data.bytes.empty()) tensor_ = std::move(tensor.data);
  return ToByteBuffer(reply);
}

grpc::ByteBuffer ForwardStream::NextChunk() {
  const uint64_t size = std::min(kChunkBytes, tensor_->bytes.size() - offset_);
  // Hashed here, on a transport thread, so that the executor does not pay for it; the bytes are about to be copied to the socket anyway.
  checksum_.Add(tensor_->bytes.subspan(offset_, size));
  const grpc::Slice slices[] = {grpc::Slice(EncodeChunkPrefix(tensors_ - 1, offset_, size)), Borrow(*tensor_, offset_, size)};
  offset_ += size;
  if (offset_ == tensor_->bytes.size()) {
    in_flight_ = offset_;
    tensor_.reset();
  }
  return grpc::ByteBuffer(slices, 2);
}

grpc::ByteBuffer ForwardStream::Pack(const std::vector<api::NamedTensor>& tensors) {
  pb::TensorPack headers;
  std::vector<grpc::Slice> slices(1);  // the first is for what comes before the data
  for (const api::NamedTensor& tensor : tensors) {
    EncodeTensorHeader(tensor, tensors_++, headers.add_headers());
    const uint64_t size = tensor.data.bytes.size();
    if (size == 0) continue;
    checksum_.Add(tensor.data.bytes);
    slices.push_back(Borrow(tensor.data, 0, size));
    in_flight_ += size;
  }
  bytes_ += in_flight_;
  slices.front() = grpc::Slice(EncodePackPrefix(headers, in_flight_));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace fluoroscope::rpc
