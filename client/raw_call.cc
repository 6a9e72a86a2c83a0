#include "client/raw_call.h"

#include <utility>

namespace fluoroscope::client {
namespace {

constexpr size_t kReadAheadBytes = size_t{8} << 20;
constexpr size_t kSmallBytes = size_t{1} << 20;  // of a reply: no thread up to here

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  const grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

// The request leaves in one piece with its metadata. Only one operation is ever under way, so it needs no name: the tag is always null.
RawCall::RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const google::protobuf::MessageLite& request,
                 grpc::ClientContext* context)
    : context_(context) {
  context_->set_initial_metadata_corked(true);
  stream_ = grpc::GenericStub(channel).PrepareCall(context, method, &queue_);
  stream_->StartCall(nullptr);  // corked: no operation of its own
  stream_->WriteLast(Serialize(request), grpc::WriteOptions(), nullptr);
  Wait();  // when it fails, the call has a status already, and the first read ends
}

RawCall::~RawCall() {
  if (!finished_) (void)Finish();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

bool RawCall::Wait() {
  void* tag = nullptr;
  bool ok = false;
  return queue_.Next(&tag, &ok) && ok;
}

bool RawCall::Receive(grpc::ByteBuffer* message) {
  message->Clear();
  stream_->Read(message, nullptr);
  return Wait();
}

bool RawCall::Read(grpc::ByteBuffer* message) {
  if (!thread_.joinable()) {
    ended_ = ended_ || !Receive(message);
    if (ended_) return false;
    received_bytes_ += message->Length();
    if (received_bytes_ >= kSmallBytes) thread_ = std::thread([this] { ReadAhead(); });
    return true;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_ || !messages_.empty(); });
  if (messages_.empty()) return false;
  message->Swap(&messages_.front());
  messages_.pop_front();
  bytes_ -= message->Length();
  changed_.notify_all();
  return true;
}

void RawCall::ReadAhead() {
  grpc::ByteBuffer message;
  while (Receive(&message) && Push(message)) {
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

bool RawCall::Push(const grpc::ByteBuffer& message) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return unwanted_ || bytes_ < kReadAheadBytes; });
  if (unwanted_) return false;
  messages_.push_back(message);  // shares the bytes
  bytes_ += message.Length();
  changed_.notify_all();
  return true;
}

grpc::Status RawCall::Finish() {
  if (finished_) return status_;
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ || !messages_.empty()) {
      unwanted_ = true;
      context_->TryCancel();
    }
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  stream_->Finish(&status_, nullptr);
  Wait();
  finished_ = ended_ = true;
  return status_;
}

}  // namespace fluoroscope::client
