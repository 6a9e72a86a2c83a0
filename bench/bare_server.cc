// The fastest stream gRPC itself can send: 256 MiB of the same 2 MiB slice, no model, no copies, no checksums. Prints its port, ends when
// its standard input closes.
//
// A request that is not empty gets the least that a server of results must do: 256 MiB that are not all the same memory, hashed once.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <vector>

#include "bench/hash.h"
#include "fluoroscope/v1/inference.grpc.pb.h"

namespace {

constexpr int kMessages = 128;
constexpr size_t kMessageBytes = size_t{2} << 20;

class Sender final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  // `data` is one message, or kMessages of them to be hashed.
  Sender(const std::vector<char>& data, bool distinct) : data_(data), distinct_(distinct) { Next(); }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (sent_ == kMessages) {
      Finish(hash_.Value() != 0 ? grpc::Status::OK : grpc::Status::CANCELLED);  // so that it is computed
      return;
    }
    const char* const from = data_.data() + (distinct_ ? kMessageBytes * static_cast<size_t>(sent_) : 0);
    ++sent_;
    if (distinct_) hash_.Add(from, kMessageBytes);
    const grpc::Slice slice(from, kMessageBytes, grpc::Slice::STATIC_SLICE);  // the data outlives the call
    message_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&message_);
  }

  const std::vector<char>& data_;
  const bool distinct_;
  fluoroscope::bench::Hash hash_;
  grpc::ByteBuffer message_;
  int sent_ = 0;
};

class BareInference final : public fluoroscope::v1::Inference::WithRawCallbackMethod_Forward<fluoroscope::v1::Inference::Service> {
 public:
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Forward(grpc::CallbackServerContext*, const grpc::ByteBuffer* request) override {
    return new Sender(data_, request->Length() > 0);
  }

 private:
  const std::vector<char> data_ = std::vector<char>(kMessages * kMessageBytes, 'x');
};

}  // namespace

int main() {
  BareInference service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  std::printf("%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
}
