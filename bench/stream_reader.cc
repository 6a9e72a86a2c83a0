// Reads Forward streams and prints how long the tensors of each took, in seconds, their bytes, and this process's processor seconds:
//   bench_stream_reader TARGET bare                 messages are read and dropped
//   bench_stream_reader TARGET keep                 the same, after telling glibc to keep freed memory, as the client library does
//   bench_stream_reader TARGET copied               and their bytes are copied into one array and hashed, which every client must do
//   bench_stream_reader TARGET tensors REQUEST      messages become checked tensors; REQUEST is a file with a serialised ForwardRequest
// After the first message of each stream it prints "ready" and waits for a line on standard input, so that the run itself is over when the
// clock starts. Goes on until its standard input ends.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "bench/hash.h"
#include "client/assembler.h"
#include "client/raw_call.h"
#include "fluoroscope/v1/inference.pb.h"

namespace {

constexpr char kForward[] = "/fluoroscope.v1.Inference/Forward";

enum class Mode { kBare, kCopied, kTensors };

// Whether there is another one.
bool WaitForGo() {
  std::puts("ready");
  std::fflush(stdout);
  int c = std::getchar();
  while (c != '\n' && c != EOF) c = std::getchar();
  return c != EOF;
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// Of all threads of this process, in user and system mode.
double ProcessorSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The least that leaves the values in memory, checked: fresh memory, one copy, one hash, no format. The bare server does its least too.
class Copied {
 public:
  void Take(grpc::ByteBuffer* message) {
    grpc::ProtoBufferReader reader(message);
    const void* data = nullptr;
    for (int size = 0; reader.Next(&data, &size); size_ += static_cast<size_t>(size)) {
      std::memcpy(bytes_.get() + size_, data, static_cast<size_t>(size));
      hash_.Add(bytes_.get() + size_, static_cast<size_t>(size));
    }
  }

 private:
  static constexpr size_t kMost = size_t{300} << 20;
  std::unique_ptr<std::byte[]> bytes_{new std::byte[kMost]};
  fluoroscope::bench::Hash hash_;
  size_t size_ = 0;
};

// 0, or what main returns.
int ReadOne(const std::shared_ptr<grpc::Channel>& channel, const fluoroscope::v1::ForwardRequest& request, Mode mode, bool& more) {
  grpc::ClientContext context;
  fluoroscope::client::RawCall call(channel, kForward, request, &context);
  std::optional<fluoroscope::client::Assembler> assembler;
  grpc::ByteBuffer message;
  size_t bytes = 0;
  if (!call.Read(&message)) return 1;
  if (more = WaitForGo(); !more) return 0;
  const auto start = std::chrono::steady_clock::now();
  const double start_processor = ProcessorSeconds();
  std::optional<Copied> copied;
  if (mode == Mode::kTensors) assembler.emplace();
  if (mode == Mode::kCopied) copied.emplace();
  do {
    bytes += message.Length();
    if (copied) copied->Take(&message);
    if (assembler && !assembler->Take(&message).ok()) return 1;
    message.Clear();
  } while (call.Read(&message));
  if (assembler) {
    const auto result = assembler->Finish();
    if (!result.ok()) return 1;
    bytes = result->summary.byte_count();
    std::printf("%.6f %zu %.6f\n", Seconds(start), bytes, ProcessorSeconds() - start_processor);  // before the result is dropped
  } else {
    std::printf("%.6f %zu %.6f\n", Seconds(start), bytes, ProcessorSeconds() - start_processor);
  }
  return call.Finish().ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string name = argv[2];
  const Mode mode = name == "bare" || name == "keep" ? Mode::kBare : name == "copied" ? Mode::kCopied : Mode::kTensors;
  fluoroscope::v1::ForwardRequest request;
  if (mode == Mode::kTensors) {
    if (argc < 4) return 2;
    std::ifstream file(argv[3], std::ios::binary);
    if (!request.ParseFromIstream(&file)) return 2;
  }
  if (mode == Mode::kCopied) request.set_model("distinct");  // see bare_server.cc: any request that is not empty
  if (name == "keep") fluoroscope::client::KeepFreedBuffers();
  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  bool more = true;
  while (more) {
    if (const int failed = ReadOne(channel, request, mode, more); failed != 0) return failed;
    std::fflush(stdout);
  }
}
