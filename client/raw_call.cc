#include "client/raw_call.h"

#include <utility>

namespace fluoroscope::client {
namespace {

constexpr size_t kReadAheadBytes = size_t{8} << 20;

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  const grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

RawCall::RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const google::protobuf::MessageLite& request,
                 grpc::ClientContext* context)
    : context_(context),
      stream_(grpc::GenericStub(channel).PrepareCall(context, method, &queue_)),
      thread_([this, bytes = Serialize(request)] { Run(bytes); }) {}

RawCall::~RawCall() {
  if (thread_.joinable()) (void)Finish();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

// Only one operation is ever under way, so it needs no name: the tag is always null.
void RawCall::Run(const grpc::ByteBuffer& request) {
  stream_->StartCall(nullptr);
  if (Wait()) {
    stream_->WriteLast(request, grpc::WriteOptions(), nullptr);
    Wait();  // when it fails, the call has a status already, and the first read ends
  }
  grpc::ByteBuffer message;
  do {
    message.Clear();
    stream_->Read(&message, nullptr);
  } while (Wait() && Push(message));
  grpc::Status status;
  stream_->Finish(&status, nullptr);
  Wait();
  const std::lock_guard lock(mutex_);
  status_ = std::move(status);
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

bool RawCall::Wait() {
  void* tag = nullptr;
  bool ok = false;
  return queue_.Next(&tag, &ok) && ok;
}

bool RawCall::Read(grpc::ByteBuffer* message) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_ || !messages_.empty(); });
  if (messages_.empty()) return false;
  message->Swap(&messages_.front());
  messages_.pop_front();
  bytes_ -= message->Length();
  changed_.notify_all();
  return true;
}

grpc::Status RawCall::Finish() {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ || !messages_.empty()) {
      unwanted_ = true;
      context_->TryCancel();
    }
    changed_.notify_all();
  }
  thread_.join();
  return status_;
}

}  // namespace fluoroscope::client
