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

// Owns the call and a thread that reads ahead: while the caller copies one message out of gRPC's buffers the next ones come in. Without it
// the socket stands still meanwhile, and a large reply takes twice as long. The caller is one thread; Read and Finish block it.
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
  // On thread_:
  void Run(const grpc::ByteBuffer& request);
  bool Push(const grpc::ByteBuffer& message);  // false: nobody wants more
  bool Wait();                                 // for the one operation under way

  grpc::ClientContext* const context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<grpc::ByteBuffer> messages_;
  size_t bytes_ = 0;  // in messages_
  bool ended_ = false, unwanted_ = false;
  grpc::Status status_;  // valid once ended_

  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace fluoroscope::client
