// Whatever the bytes of a submitted job are: no crash; a request that is accepted is kept as bytes that mean the same again, and so are the
// finished pieces of a job when they are read back.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <variant>

#include "config/config.h"
#include "rpc/codec_jobs.h"
#include "rpc/grid_codec.h"

namespace {

using namespace fluoroscope;  // NOLINT: a test binary of one file

void Require(bool condition) {
  if (!condition) std::abort();
}

const api::GridCodec& Codec() {
  static const std::shared_ptr<const api::GridCodec> codec = rpc::MakeGridCodec(config::Limits());
  return *codec;
}

void CheckSubmitted(const v1::SubmitJobRequest& message) {
  const auto job = rpc::DecodeSubmitJob(message);
  if (!job.ok()) return;
  Require(job->kind == (message.has_sweep() ? "sweep" : "path_patch"));
  const auto request = Codec().DecodeRequest(job->kind, job->request);
  if (!request.ok()) return;
  Require(std::holds_alternative<api::SweepRequest>(*request) == message.has_sweep());
  std::visit([](const auto& grid) { Require(!grid.pairs.empty() && !grid.metrics.empty()); }, *request);
  Require(!Codec().DecodeRequest("attribution", job->request).ok());
}

// The store's file may have been damaged.
void CheckFinished(const std::string& bytes) {
  const auto piece = Codec().DecodeFinished(bytes);
  if (piece.ok()) Require(!piece->reference || piece->cells.empty());
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  v1::SubmitJobRequest message;
  if (message.ParseFromString(bytes)) CheckSubmitted(message);
  CheckFinished(bytes);
  return 0;
}
