// One server-streaming call whose replies arrive as gRPC's own buffers, not as parsed messages.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace fluoroscope::client {

// Owns the call and, once a reply turns out to be large, a thread that reads ahead: while the caller copies one message out of gRPC's
// buffers the next ones come in. Without it the socket stands still meanwhile, and a large reply takes twice as long; for a small one, to
// make a thread and to be woken by it takes longer than to read. The caller is one thread; Read and Finish block it.
class RawCall {
 public:
  // `method` like "/fluoroscope.v1.Inference/Forward". `context` outlives the call.
  RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const google::protobuf::MessageLite& request,
          grpc::ClientContext* context);
  ~RawCall();  // cancels a call that has not ended
  RawCall(const RawCall&) = delete;
  RawCall& operator=(const RawCall&) = delete;

  // False at the end of the stream.
  bool Read(grpc::ByteBuffer* message);

  // After Read has said false; before, it cancels the call.
  grpc::Status Finish();

 private:
  bool Receive(grpc::ByteBuffer* message);  // from the stream itself
  bool Wait();                              // for the one operation under way

  // On thread_:
  void ReadAhead();
  bool Push(const grpc::ByteBuffer& message);  // false: nobody wants more

  grpc::ClientContext* const context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;  // thread_'s own, as long as it runs
  size_t received_bytes_ = 0;                                     // without thread_

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<grpc::ByteBuffer> messages_;
  size_t bytes_ = 0;  // in messages_
  bool ended_ = false, unwanted_ = false;
  bool finished_ = false;
  grpc::Status status_;

  std::thread thread_;
};

}  // namespace fluoroscope::client
